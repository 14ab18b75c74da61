package main_test

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"

	"github.com/tidepool-oci/tidepool/proxy/origintest"
)

// mostIdle, in KiB, is well above what a member that does nothing was seen to take, 25 MiB; the race detector's own is more.
const mostIdle = 64 << 10

// TestIdleMembers says what members take that have nothing to do, and what one alone does.
func TestIdleMembers(t *testing.T) {
	needs(t)
	hub := origintest.Serve(t, origintest.New())
	alone := serve(t, "--upstream", "docker.io="+hub.URL)
	for i, p := range append(gather(t, 3, hub.URL).members, alone) {
		status := read(t, fmt.Sprintf("/proc/%d/status", p.Process.Pid))
		m := regexp.MustCompile(`VmRSS:\s+([0-9]+) kB`).FindStringSubmatch(status)
		if m == nil {
			t.Fatalf("no VmRSS in %s", status)
		}
		kib, err := strconv.Atoi(m[1])
		must(t, err)
		t.Logf("%d: %d KiB resident", i, kib)
		if kib > mostIdle {
			t.Errorf("a member that has nothing to do takes %d KiB, want at most %d", kib, mostIdle)
		}
	}
}
