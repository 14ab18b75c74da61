package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
)

// ports are given out one after the other, once each, from a place that no two runs share.
var ports = func() *atomic.Uint32 {
	var n atomic.Uint32
	n.Store(rand.Uint32N(1 << 16))
	return &n
}()

// freeAddress is one of loopback that nobody listens at. It is below those that outgoing connections are from, and that
// listeners are at which leave it to the kernel (32768 and up: ip(7)): one of these could be there by the time that it is
// listened at.
func freeAddress() (string, error) {
	const lowest, highest = 10_000, 32_000
	for range 100 {
		at := fmt.Sprintf("127.0.0.1:%d", lowest+ports.Add(1)%(highest-lowest))
		l, err := net.Listen("tcp", at)
		if err != nil {
			continue
		}
		packets, err := net.ListenPacket("udp", at) // members gossip by both
		if e := l.Close(); err == nil && e == nil && packets.Close() == nil {
			return at, nil
		}
	}
	return "", errors.New("no port is free on 127.0.0.1")
}

// FreeAddress is freeAddress for the tests of whole programs.
var FreeAddress = freeAddress
