package sourcetest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tidepool-oci/tidepool/cache"
)

// Files says which files of a store, in the data directory given, have other bytes than their names say. Where nothing was
// ever kept, all is well.
func Files(data string) error {
	var wrong []error
	err := filepath.WalkDir(filepath.Join(data, "store", "blobs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		alg := filepath.Base(filepath.Dir(filepath.Dir(path)))
		g, err := cache.ParseDigest(alg + ":" + d.Name())
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && !g.Names(b) {
			wrong = append(wrong, fmt.Errorf("%s holds %d bytes that are something else", path, len(b)))
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(append(wrong, err)...)
}
