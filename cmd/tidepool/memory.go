package main

import (
	"io/fs"
	"math"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// limitMemory tells the garbage collector of the cgroup's limit: 90 % of it, which leaves room for the kernel's share
// of our buffers. A GOMEMLIMIT of the operator's own stands.
func limitMemory(root fs.FS, own string) (limit int64, ok bool) {
	cgroup, ok := cgroupMemory(root)
	if own != "" || !ok {
		return 0, false
	}
	limit = cgroup / 10 * 9
	debug.SetMemoryLimit(limit)
	return limit, true
}

// collectAt is how much garbage may gather, in percent of what is in use. Of little in use, Go's own 100 % collects every
// few thousand answers and takes a tenth of the processor; with a full memory tier this still is a few hundred MiB at
// the most, and the limit above bounds it further.
const collectAt = 300

// collectSeldom has the garbage collector run less often. A GOGC of the operator's own stands.
func collectSeldom(own string) {
	if own == "" {
		debug.SetGCPercent(collectAt)
	}
}

// cgroupMemory is the least of the memory limits of our cgroup and those around it, of version 1 or 2, in bytes.
func cgroupMemory(root fs.FS) (int64, bool) {
	least := int64(math.MaxInt64)
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) { // "0::/path" or "9:memory:/path" (cgroups(7))
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		switch {
		case parts[1] == "":
			least = min(least, leastIn(root, "sys/fs/cgroup", parts[2], "memory.max"))
		case strings.Contains(","+parts[1]+",", ",memory,"):
			least = min(least, leastIn(root, "sys/fs/cgroup/memory", parts[2], "memory.limit_in_bytes"))
		}
	}
	// Version 1 has no word for "none": it gives the largest number of whole pages.
	const none = math.MaxInt64 >> 16 << 16
	return least, least < none
}

// leastIn reads file in dir and in every directory above it, up to the mount. Where a container sees only its own part
// of the tree, dir is not there and the mount itself is ours.
func leastIn(root fs.FS, mount, dir, file string) int64 {
	least := int64(math.MaxInt64)
	for dir = path.Clean("/" + dir); ; dir = path.Dir(dir) {
		text, err := fs.ReadFile(root, path.Join(mount, dir, file))
		if n, bad := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && bad == nil {
			least = min(least, n)
		}
		if dir == "/" {
			return least
		}
	}
}
