package main

import (
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// bars show how far things are: as bars on a terminal, elsewhere as one line for each that is finished.
type bars struct {
	out io.Writer
	all *mpb.Progress // nil: plain lines
}

func newBars(out io.Writer) *bars {
	b := &bars{out: out}
	if onTerminal(out) {
		b.all = mpb.New(mpb.WithOutput(out), mpb.WithWidth(40))
	}
	return b
}

// say prints a line between the bars.
func (b *bars) say(format string, args ...any) {
	line := fmt.Sprintf(format+"\n", args...)
	if b.all != nil {
		_, _ = b.all.Write([]byte(line)) // what cannot be shown is no failure
		return
	}
	_, _ = io.WriteString(b.out, line)
}

// close shows what was said last.
func (b *bars) close() {
	if b.all != nil {
		b.all.Wait()
	}
}

// bar is one thing that is being done.
type bar struct {
	bars  *bars
	name  string
	total int64 // bytes
	began time.Time
	bar   *mpb.Bar
}

func (b *bars) add(name string, total int64) *bar {
	x := &bar{bars: b, name: name, total: total, began: time.Now()}
	if b.all != nil {
		x.bar = b.all.AddBar(total,
			mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.Name(" "),
				decor.AverageSpeed(decor.SizeB1024(0), "% .1f")))
	}
	return x
}

// add counts n bytes more.
func (x *bar) add(n int) {
	if x.bar != nil {
		x.bar.IncrBy(n)
	}
}

// gone takes the bar down.
func (x *bar) gone() {
	x.bar.Abort(true)
	x.bar.Wait()
}

// end says that it is done, or why not.
func (x *bar) end(err error) {
	switch {
	case x.bar != nil && err != nil:
		x.bar.Abort(false)
		x.bar.Wait()
	case x.bar != nil:
		x.bar.SetTotal(-1, true) // a bar of nothing would never end
		x.bar.Wait()
	case err != nil:
		x.bars.say("%s: %v", x.name, err)
	default:
		x.bars.say("%s: %s in %.2f s", x.name, humanize.IBytes(uint64(x.total)), time.Since(x.began).Seconds())
	}
}
