package setup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidepool-oci/tidepool/deploy"
)

// A server that speaks TLS is written so into each client's file, with nothing that lets it do without, and goes out of
// the file as another does; one that came to speak it takes the place of what was there.
func TestSecureServer(t *testing.T) {
	const at = "https://tidepool.corp:5000"
	for name, c := range clients {
		for _, fallback := range []bool{false, true} {
			root := t.TempDir()
			file := filepath.Join(root, c.file)
			read := func() string {
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				return string(b)
			}
			for i, to := range []string{"tidepool.corp:5000", at, at} {
				d, err := Write(root, name, deploy.Server{Address: to, Fallback: fallback})
				if err != nil {
					t.Fatal(err)
				}
				if want := []Change{Created, Updated, Unchanged}[i]; d.Change != want {
					t.Errorf("%s, to %s: %s, want %s", name, to, d.Change, want)
				}
			}
			text := read()
			for _, not := range []string{"http://", "insecure", "http = true"} {
				if strings.Contains(text, not) {
					t.Errorf("%s has %q:\n%s", name, not, text)
				}
			}
			if strings.Contains(text, "://") != strings.Contains(text, at) || !strings.Contains(text, "tidepool.corp:5000") {
				t.Errorf("%s:\n%s", name, text)
			}
			if d, err := Undo(root, name); err != nil || d.Change != Removed {
				t.Errorf("%s: %s %v", name, d.Change, err)
			}
		}
	}
	for _, name := range deploy.Clients() {
		hints, snippet := deploy.Client(name, deploy.Server{Address: at})
		if strings.Contains(hints+snippet, "http://tidepool") || strings.Contains(snippet, "--plain-http") || strings.Contains(hints+snippet, "https://https") {
			t.Errorf("%s: %s%s", name, hints, snippet)
		}
	}
}
