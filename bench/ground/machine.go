package ground

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Kernel is the kernel's name and version.
func Kernel() string {
	var u unix.Utsname
	unix.Uname(&u) // fails only for a bad pointer
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}

// CPU is the processor's name.
func CPU() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

// Commit names the source that tidepool was built from, with a mark where the tree has other changes.
func Commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// Build makes tidepool from the source around the working directory, in dir.
func Build(ctx context.Context, dir string) (string, error) {
	bin := filepath.Join(dir, "tidepool")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin, "github.com/tidepool-oci/tidepool/cmd/tidepool")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build tidepool: %w: %s", err, bytes.TrimSpace(said))
	}
	return bin, nil
}
