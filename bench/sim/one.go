package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tidepool-oci/tidepool/cluster/clustertest/sim"
)

// simulate runs one seed in this process, prints what happened, and exits. Virtual time wants a test.
func simulate(o options) {
	debug.SetGCPercent(400) // little stays
	os.Args = os.Args[:1]   // the rest is not for package testing
	all := func(string, string) (bool, error) { return true, nil }
	testing.Main(all, []testing.InternalTest{{Name: "seed", F: func(t *testing.T) { one(t, o) }}}, nil, nil)
}

func one(t *testing.T, o options) {
	before := descriptors()
	var r sim.Result
	var err error
	synctest.Test(t, func(t *testing.T) {
		r, err = sim.Run(t.Context(), sim.Options{
			Seed: o.first, Members: o.members, Length: time.Duration(o.hours * float64(time.Hour)),
			Gossip: o.gossip == "all" || o.gossip == "some" && o.first%16 == 7, Log: o.log(),
		})
	})
	fmt.Print(r.Log)
	if after := descriptors(); err == nil && after > before {
		err = fmt.Errorf("%d descriptors are left open", after-before)
	}
	if err != nil {
		r.Faults = append(r.Faults, err.Error())
	}
	for _, f := range r.Faults {
		fmt.Println("FAULT:", f)
		t.Fail()
	}
	fmt.Println(r)
}

// descriptors are the files that are open now.
func descriptors() int {
	open, _ := os.ReadDir("/proc/self/fd") // where there is none, none is counted
	return len(open)
}

// log takes what the members say, by the clock of the bubble.
func (o options) log() *zap.Logger {
	if !o.verbose {
		return nil
	}
	c := zap.NewDevelopmentEncoderConfig()
	c.EncodeTime = func(t time.Time, e zapcore.PrimitiveArrayEncoder) { e.AppendString(t.UTC().Format("15:04:05.000000")) }
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(c), zapcore.AddSync(os.Stdout), zap.DebugLevel))
}
