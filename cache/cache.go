package cache

import (
	"time"

	"go.uber.org/zap"
)

// Tier says where bytes came from.
type Tier uint8

// The tiers, nearest first.
const (
	FromMemory Tier = iota
	FromDisk
	FromFlight   // joined a download that somebody else began
	FromUpstream // began a download, or asked the upstream
)

// String is the tier as logs, metrics and Cache-Status spell it.
func (t Tier) String() string {
	return [...]string{"memory", "disk", "flight", "upstream"}[t]
}

// Options says how a Cache behaves. Only Dir must be set.
type Options struct {
	Dir    string // the data directory; made with mode 0700 where it is missing
	Disk   int64  // budget of the disk tier in bytes; 0: 80 % of the file system
	Memory int64  // budget of the memory tier in bytes; 0: 64 MiB

	Fresh        func(Ref) time.Duration    // how long a name needs no asking; nil: 5 minutes
	Private      func(registry string) bool // whether an upstream is asked with credentials; nil: none is
	ProvenRanges bool                       // ranges of what is still arriving wait until its digest is proven
	Fill         Fill                       // what becomes of a blob of which only ranges are asked for
	ScrubRate    int64                      // bytes per second read to look for rot; 0: 8 MiB/s; negative: never

	FS  FS               // nil: the operating system's
	Now func() time.Time // the wall clock; nil: time.Now
	Log *zap.Logger      // nil: silence
}

// Fill says when a blob of which only ranges were asked for is fetched whole.
type Fill uint8

// FillAuto fetches the rest once half is held; FillAsked never does; FillWhole does at once.
const (
	FillAuto Fill = iota
	FillAsked
	FillWhole
)

// Found says what a Ref is and where that was learned.
type Found struct {
	Desc
	From  Tier
	AsOf  time.Time // of a name: when the hub last said so; zero for a digest, which does not age
	Stale bool      // of a name: past its freshness, and the upstream could not be asked
}
