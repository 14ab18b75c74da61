package main

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// How many connections an address may have is what the file says; 0 is no cap.
func TestConnectionsPerClient(t *testing.T) {
	for _, c := range []struct {
		file        string
		opens, kept int
	}{
		{"", 520, 512},
		{"connections_per_client: 3\n", 5, 3},
		{"connections_per_client: 0\n", 600, 600},
	} {
		t.Run(c.file, func(t *testing.T) {
			w := fill(t, plan{file: c.file})
			var open []net.Conn
			for range c.opens {
				conn, err := net.Dial("tcp", w.addr.String())
				if err != nil { // or it is reset before we know of it
					continue
				}
				defer conn.Close()
				_, _ = io.WriteString(conn, "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n") // it may be closed already
				open = append(open, conn)
			}
			kept := 0
			for _, conn := range open {
				_ = conn.SetReadDeadline(time.Now().Add(time.Minute)) // there is an answer, or a reset
				status := make([]byte, len("HTTP/1.1 200"))
				if _, err := io.ReadFull(conn, status); err == nil && strings.HasSuffix(string(status), " 200") {
					kept++
				}
			}
			if kept != c.kept {
				t.Errorf("%d of %d connections are served, want %d", kept, c.opens, c.kept)
			}
		})
	}
}
