package main

import (
	"fmt"
	"io"

	"github.com/dustin/go-humanize"
)

// progress shows how far images are: a bar for each that is on its way, a line for each that is done.
type progress struct {
	bars *bars
	all  map[string]*moving
}

// moving is an image on its way.
type moving struct {
	bar  *bar
	have int64
}

func newProgress(out io.Writer) *progress {
	return &progress{bars: newBars(out), all: map[string]*moving{}}
}

// event shows one, and reports whether it was the image's last.
func (p *progress) event(e warmEvent) (last bool) {
	switch e.State {
	case "started":
		return false
	case "moving":
		p.move(e)
		return false
	}
	if m := p.all[e.Image]; m != nil {
		m.bar.gone()
		delete(p.all, e.Image)
	}
	p.bars.say("%s", line(e))
	return true
}

// move shows that an image is on its way. Lines that are written one below the other tell only of what is done.
func (p *progress) move(e warmEvent) {
	if p.bars.all == nil {
		return
	}
	m := p.all[e.Image]
	if m == nil {
		m = &moving{bar: p.bars.add(printable(e.Image), e.Total)}
		p.all[e.Image] = m
	}
	m.bar.add(int(e.Have - m.have))
	m.have = e.Have
}

// end takes down what is left.
func (p *progress) end() {
	for _, m := range p.all {
		m.bar.gone()
	}
	p.bars.close()
}

// line is how an image ended.
func line(e warmEvent) string {
	text := printable(e.Image) + ": "
	switch e.State {
	case "failed":
		return text + "failed: " + printable(e.Error)
	case "unchanged":
		text += "unchanged"
	default:
		text += fmt.Sprintf("%s, %s of %s fetched", printable(e.State), humanize.IBytes(positive(e.Bytes)), humanize.IBytes(positive(e.Total)))
	}
	if e.Pinned {
		text += ", pinned"
	}
	if e.Digest != "" {
		text += ", " + printable(e.Digest)
	}
	return text
}

func positive(n int64) uint64 { return uint64(max(0, n)) }
