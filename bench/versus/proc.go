package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// What the kernel tells of processes and of itself.

// jiffy is the unit of /proc's processor times on every Linux that Go runs on.
const jiffy = 10 * time.Millisecond

// anonymous is what pid and all processes under it hold in memory that no file backs, in bytes.
func anonymous(pid int) (total int64, err error) {
	for _, p := range family(pid) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
		if err != nil {
			return 0, err
		}
		kib, err := field(b, "Anonymous:", 1)
		if err != nil {
			return 0, err
		}
		total += kib << 10
	}
	return total, nil
}

// family is pid and its descendants.
func family(pid int) []int {
	children := map[int][]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is right
	for _, dir := range dirs {
		id, _ := strconv.Atoi(filepath.Base(dir))
		if words := stat(id); words != nil {
			parent, _ := strconv.Atoi(words[1])
			children[parent] = append(children[parent], id)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// stat is what follows the name in pid's line of figures; nil if it has ended.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // a name may have spaces
}

// cpuTime is what pid and all processes under it have used of the processors so far.
func cpuTime(pid int) (total time.Duration) {
	for _, p := range family(pid) {
		if words := stat(p); words != nil {
			user, _ := strconv.Atoi(words[11])
			system, _ := strconv.Atoi(words[12])
			total += time.Duration(user+system) * jiffy
		}
	}
	return total
}

// quiet waits until others leave nine tenths of the processors alone, at most as long as it may, and reports whether
// they do.
func quiet(ctx context.Context, may time.Duration) bool {
	const look = 100 * time.Millisecond
	for deadline := time.Now().Add(may); ; {
		idle0, all0 := processors()
		select {
		case <-ctx.Done():
			return false
		case <-time.After(look):
		}
		idle, all := processors()
		if (idle-idle0)*10 >= (all-all0)*9 {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// processors is how long all of them have been idle, or have waited for a disk, and their time in all, in jiffies.
func processors() (idle, all int64) {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	for i, word := range strings.Fields(line)[1:] {
		n, _ := strconv.ParseInt(word, 10, 64)
		all += n
		if i == 3 || i == 4 {
			idle += n
		}
	}
	return idle, all
}

// socketMemory is what all TCP sockets of the machine hold in their buffers, in bytes. Pages sent by sendfile count,
// though they are the page cache's own.
func socketMemory() (int64, error) {
	b, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		return 0, err
	}
	pages, err := field(b, "TCP:", 10)
	return pages * int64(os.Getpagesize()), err
}

// field is the n-th number or word after key on the line that begins with it.
func field(text []byte, key string, n int) (int64, error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if words := strings.Fields(lines.Text()); len(words) > n && words[0] == key {
			return strconv.ParseInt(words[n], 10, 64)
		}
	}
	return 0, fmt.Errorf("no %s in the kernel's figures", key)
}
