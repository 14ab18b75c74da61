package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/netresearch/go-cron"

	"github.com/tidepool-oci/tidepool/cache/warm"
)

// WarmRule is a list of images that are fetched ahead, again and again.
type WarmRule struct {
	Images    []Image    `yaml:"images" doc:"images as docker writes them, with a range of versions (app:~1.4) or a pattern (app:v1.*) in the place of a tag where several are meant"`
	Every     Duration   `yaml:"every" doc:"how long after the begin of one round the next one begins; the first comes with the start"`
	Cron      Cron       `yaml:"cron" doc:"when a round begins, in the place of every: minute hour day month weekday, by the clock of this machine"`
	Windows   []Hours    `yaml:"windows" doc:"times of the day at which it may go on; outside of them nothing is asked for"`
	Platforms []Platform `yaml:"platforms" doc:"the platforms that are fetched of images that there are for several: linux/amd64, linux/arm/v7; without any, all of them"`
	Referrers Referrers  `yaml:"referrers" doc:"when signatures, attestations and bills of materials are asked for: once for each image, always, or never"`
	Newest    int        `yaml:"newest" doc:"how many of the tags that a range or a pattern matches, the newest first; 0: all of them"`
	Pin       bool       `yaml:"pin" doc:"never evict these images, and serve them by these names whatever is lost or out of reach"`
}

// Image is an image, or a range of them, as warm.Parse reads it.
type Image string

// UnmarshalText refuses what names no image.
func (i *Image) UnmarshalText(b []byte) error {
	if _, err := warm.Parse(string(b)); err != nil {
		return err
	}
	*i = Image(b)
	return nil
}

// registry is what the name of i begins with; "" where it names none.
func (i Image) registry() string {
	item, err := warm.Parse(string(i))
	first, _, more := strings.Cut(item.Name, "/")
	if err != nil || !more || !strings.ContainsAny(first, ".:") && first != "localhost" {
		return ""
	}
	return first
}

// Platform is os/architecture or os/architecture/variant.
type Platform warm.Platform

// UnmarshalText reads a platform.
func (p *Platform) UnmarshalText(b []byte) error {
	read, err := warm.ParsePlatform(string(b))
	*p = Platform(read)
	return err
}

// MarshalText writes p as docker does.
func (p Platform) MarshalText() ([]byte, error) { return []byte(warm.Platform(p).String()), nil }

// Referrers says when what refers to an image is asked for.
type Referrers string

// referrers are what the words mean.
var referrers = map[Referrers]warm.Referrers{
	"": warm.ReferrersOnce, "once": warm.ReferrersOnce, "always": warm.ReferrersAlways, "never": warm.ReferrersNever,
}

// Words lists what may be said, the usual first.
func (Referrers) Words() []string { return []string{"once", "always", "never"} }

// UnmarshalText takes one of Words.
func (r *Referrers) UnmarshalText(b []byte) error { return choose(r, b) }

// Mean is what r means.
func (r Referrers) Mean() warm.Referrers { return referrers[r] }

// Cron is a time that comes again, as crontab(5) has it.
type Cron string

// UnmarshalText reads five fields, or a word such as @daily.
func (c *Cron) UnmarshalText(b []byte) error {
	if _, err := cron.ParseStandard(string(b)); err != nil {
		return fmt.Errorf("%q is no such time: write minute, hour, day, month and weekday, as in 30 2 * * *, or @daily (%w)", b, err)
	}
	*c = Cron(b)
	return nil
}

// Hours are a time of the day, every day, by the clock of this machine.
type Hours struct {
	From Clock `yaml:"from" doc:"when it begins: 22:00"`
	To   Clock `yaml:"to" doc:"when it ends: 06:00; before from: the next day"`
}

// Rules is what is to be fetched ahead, and when.
func (c Config) Rules() []warm.Rule {
	var all []warm.Rule
	for _, w := range c.Warm {
		r := warm.Rule{Order: warm.Order{Referrers: w.Referrers.Mean(), Newest: w.Newest}, Next: w.next()}
		for _, i := range w.Images {
			r.Images = append(r.Images, string(i))
		}
		for _, p := range w.Platforms {
			r.Platforms = append(r.Platforms, warm.Platform(p))
		}
		if w.Pin {
			r.Owner = warm.RulesOwner
		}
		if len(w.Windows) > 0 {
			r.Open = func(now time.Time) (bool, time.Time) { return open(w.Windows, now) }
		}
		all = append(all, r)
	}
	return all
}

// next is when a rule is due.
func (w WarmRule) next() func(last time.Time) time.Time {
	if schedule, err := cron.ParseStandard(string(w.Cron)); w.Cron != "" && err == nil {
		return func(time.Time) time.Time { return schedule.Next(time.Now()) }
	}
	return func(last time.Time) time.Time {
		switch {
		case last.IsZero():
			return time.Now()
		case w.Every == 0:
			return time.Time{}
		}
		return last.Add(time.Duration(w.Every))
	}
}

// open reports whether a time is within one of the windows, and when that changes.
func open(windows []Hours, now time.Time) (inside bool, until time.Time) {
	clock := Clock(now.Hour()*60 + now.Minute())
	for _, w := range windows {
		if inTime(clock, w.From, w.To) {
			return true, next(now, w.To)
		}
		if begins := next(now, w.From); until.IsZero() || begins.Before(until) {
			until = begins
		}
	}
	return false, until
}

// inTime reports whether a time of the day is from one on and before another, which may be on the next day.
func inTime(clock, from, to Clock) bool {
	if from < to {
		return from <= clock && clock < to
	}
	return clock >= from || clock < to
}

// next is when, after now, it is a time of the day.
func next(now time.Time, at Clock) time.Time {
	t := time.Date(now.Year(), now.Month(), now.Day(), int(at)/60, int(at)%60, 0, 0, now.Location())
	if !t.After(now) {
		t = time.Date(now.Year(), now.Month(), now.Day()+1, int(at)/60, int(at)%60, 0, 0, now.Location())
	}
	return t
}

func (l *layers) checkWarm() {
	for i, w := range l.Warm {
		key := fmt.Sprintf("warm[%d]", i)
		switch {
		case len(w.Images) == 0:
			l.wrong(key, "say which images: images: [alpine:3]")
		case w.Every > 0 && w.Cron != "":
			l.wrong(key+".cron", "either every or cron says when a round begins")
		case w.Every > 0 && time.Duration(w.Every) < time.Minute:
			l.wrong(key+".every", "each round asks the upstream about each image: say 1m or more")
		case w.Newest < 0:
			l.wrong(key+".newest", "want how many tags, or 0 for all of them")
		}
		for j, image := range w.Images {
			if r := image.registry(); r != "" && !l.known(r) && !l.AnyUpstream {
				l.wrong(fmt.Sprintf("%s.images[%d]", key, j), "%q cannot be fetched: the upstream %q is not configured", image, r)
			}
		}
		for j, h := range w.Windows {
			if h.From == h.To {
				l.wrong(fmt.Sprintf("%s.windows[%d]", key, j), "it begins when it ends: leave it out for the whole day")
			}
		}
	}
}
