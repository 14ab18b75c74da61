// Command ring measures what a cluster's ring and gossip cost, for deploy/sizing.md:
//
//	go run ./bench/ring [-members 10,100,1000]
//	go run ./bench/ring -gossip [-members 10,100]
//
// The ring is the members' own, on this machine. Gossip is the members' own too, each encrypting and decrypting all that
// it sends and hears, in virtual time over a network in memory that takes half a millisecond to two.
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

func main() {
	testing.Init() // gossip runs in a bubble of virtual time, which is a test's
	list := flag.String("members", "10,100,1000", "how many, one after the other")
	talk := flag.Bool("gossip", false, "measure gossip instead of the ring")
	flag.Parse()
	var sizes []int
	for _, s := range strings.Split(*list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 3 || n > 5000 {
			fmt.Fprintln(os.Stderr, "ring: -members wants numbers from 3 to 5000, with commas between them")
			os.Exit(2)
		}
		sizes = append(sizes, n)
	}
	if *talk {
		gossips(os.Stdout, sizes)
	}
	rings(os.Stdout, sizes)
}
