package sourcetest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tidepool-oci/tidepool/cache"
	"github.com/tidepool-oci/tidepool/cache/sourcetest"
)

func TestFiles(t *testing.T) {
	data := t.TempDir()
	if err := sourcetest.Files(data); err != nil {
		t.Errorf("of nothing: %v", err)
	}
	hex := cache.Sum([]byte("right")).Hex()
	dir := filepath.Join(data, "store", "blobs", "sha256", hex[:2])
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for content, ok := range map[string]bool{"right": true, "wrong": false} {
		if err := os.WriteFile(filepath.Join(dir, hex), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := sourcetest.Files(data); (err == nil) != ok {
			t.Errorf("%s: %v", content, err)
		}
	}
}
