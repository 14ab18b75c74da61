package cluster_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidepool-oci/tidepool/cluster"
)

const (
	secretA = "a secret of at least 16 bytes"
	secretB = "another one, as long as it takes"
)

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReadSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secrets")
	write(t, file, "\n "+secretA+" \r\n\n"+secretB) // as editors leave them
	s, err := cluster.ReadSecrets(file)
	if err != nil || len(s) != 2 || string(s[0]) != secretA || string(s[1]) != secretB {
		t.Errorf("read %q, %v", s, err)
	}
	for what, text := range map[string]string{
		"empty":    "",
		"blank":    " \n\n",
		"short":    secretA + "\n0123456789abcde\n",
		"too many": strings.Repeat(secretA+"\n", 9),
		"too long": strings.Repeat("x", 64<<10+1),
	} {
		write(t, file, text)
		if s, err := cluster.ReadSecrets(file); err == nil {
			t.Errorf("%s: passed with %d secrets", what, len(s))
		} else if strings.Contains(err.Error(), secretA) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: the error must name the file, and no secret: %v", what, err)
		}
	}
	if _, err := cluster.ReadSecrets(file + ".not"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no file: %v", err)
	}
}

func TestFollowSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "secrets")
		write(t, file, secretA)
		var got []string
		var complaints int
		ctx, cancel := context.WithCancel(t.Context())
		go cluster.FollowSecrets(ctx, file, secrets(secretA), func(error) { complaints++ }, func(s [][]byte) error {
			got = append(got, string(s[0]))
			return nil
		})
		turn := func(text string) {
			write(t, file, text)
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		turn(secretA) // as it was
		turn(secretB + "\n" + secretA)
		turn("oops") // changes nothing, and is said once
		turn(secretB)
		cancel()
		synctest.Wait()
		if strings.Join(got, "|") != secretB+"|"+secretB || complaints != 1 {
			t.Errorf("followed %q with %d complaints", got, complaints)
		}
	})
}
