package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Size is a number of bytes, written as 512MiB (2^20) or 512MB (10^6). A bare G is 10^9.
type Size int64

// UnmarshalText reads what people write.
func (s *Size) UnmarshalText(b []byte) error {
	n, err := humanize.ParseBytes(string(b))
	if err != nil || n > math.MaxInt64 {
		return fmt.Errorf("%q is no size: write 200GiB, 512MiB or a number of bytes", b)
	}
	*s = Size(n)
	return nil
}

// String is exact, in the largest unit that divides s.
func (s Size) String() string {
	for _, u := range units {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

var units = [...]struct {
	size Size
	name string
}{
	{1 << 50, "PiB"}, {1e15, "PB"}, {1 << 40, "TiB"}, {1e12, "TB"}, {1 << 30, "GiB"}, {1e9, "GB"},
	{1 << 20, "MiB"}, {1e6, "MB"}, {1 << 10, "KiB"}, {1e3, "KB"},
}

// MarshalText writes s as String does.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Budget is a Size or a share of the file system: 80%.
type Budget struct {
	Bytes   Size
	Percent int // where it is not 0, Bytes is
}

// maxPercent leaves room on the file system for what is not ours: a full one fails in ways that no budget foresees.
const maxPercent = 95

// UnmarshalText reads a size or a percentage from 1 to 95.
func (b *Budget) UnmarshalText(text []byte) error {
	share, ok := strings.CutSuffix(string(text), "%")
	if !ok {
		*b = Budget{}
		return b.Bytes.UnmarshalText(text)
	}
	n, err := strconv.Atoi(share)
	if err != nil || n < 1 || n > maxPercent {
		return fmt.Errorf("%q is no share of a file system: write 1%% to %d%% (the rest stays free)", text, maxPercent)
	}
	*b = Budget{Percent: n}
	return nil
}

// Of is the budget in bytes on a file system of the given size.
func (b Budget) Of(total int64) int64 {
	if b.Percent == 0 {
		return int64(b.Bytes)
	}
	return total / 100 * int64(b.Percent)
}

func (b Budget) String() string {
	if b.Percent == 0 {
		return b.Bytes.String()
	}
	return strconv.Itoa(b.Percent) + "%"
}

// MarshalText writes b as String does.
func (b Budget) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// Rate is a number of bytes per second, written as 8MiB/s, or off.
type Rate Size

// UnmarshalText reads a size with /s behind it, or off.
func (r *Rate) UnmarshalText(b []byte) error {
	if string(b) == "off" {
		*r = 0
		return nil
	}
	size, ok := strings.CutSuffix(string(b), "/s")
	if !ok || (*Size)(r).UnmarshalText([]byte(size)) != nil {
		return fmt.Errorf("%q is no rate: write 8MiB/s, or off", b)
	}
	return nil
}

func (r Rate) String() string {
	if r == 0 {
		return "off"
	}
	return Size(r).String() + "/s"
}

// MarshalText writes r as String does.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Duration is a time as Go writes it, and with days and weeks: 90s, 1h30m, 30d, 2w; or forever.
type Duration time.Duration

// Forever is longer than any tidepool runs.
const Forever = Duration(math.MaxInt64)

// days takes four digits each, which cannot overflow a time.Duration.
var days = regexp.MustCompile(`^(?:(\d{1,4})w)?(?:(\d{1,4})d)?(.*)$`)

// UnmarshalText reads a time that is not negative.
func (d *Duration) UnmarshalText(b []byte) error {
	if string(b) == "forever" {
		*d = Forever
		return nil
	}
	bad := fmt.Errorf("%q is no duration: write 90s, 5m, 1h30m, 30d, 2w or forever", b)
	parts := days.FindStringSubmatch(string(b))
	if len(b) == 0 || parts == nil {
		return bad
	}
	weeks, _ := strconv.Atoi("0" + parts[1])
	n, _ := strconv.Atoi("0" + parts[2])
	sum := time.Duration(weeks*7+n) * 24 * time.Hour
	if parts[3] != "" {
		rest, err := time.ParseDuration(parts[3])
		if err != nil || rest < 0 {
			return bad
		}
		sum += rest
	}
	if sum < 0 {
		return bad
	}
	*d = Duration(sum)
	return nil
}

// Clock is a time of the day in minutes, written as 22:00.
type Clock int

// UnmarshalText reads hours and minutes.
func (c *Clock) UnmarshalText(b []byte) error {
	t, err := time.Parse("15:04", string(b))
	if err != nil {
		return fmt.Errorf("%q is no time of the day: write 22:00", b)
	}
	*c = Clock(t.Hour()*60 + t.Minute())
	return nil
}

// MarshalText writes c as String does.
func (c Clock) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

func (c Clock) String() string { return fmt.Sprintf("%02d:%02d", c/60, c%60) }

// Freshness is a Duration that may be never.
type Freshness time.Duration

// UnmarshalText reads a Duration, or never.
func (f *Freshness) UnmarshalText(text []byte) error {
	if string(text) == "never" {
		*f = 0
		return nil
	}
	return (*Duration)(f).UnmarshalText(text)
}

// MarshalText writes f as String does.
func (f Freshness) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

func (f Freshness) String() string {
	if f == 0 {
		return "never"
	}
	return Duration(f).String()
}

// Bound is a Duration that is forever where nothing is said.
type Bound time.Duration

// UnmarshalText reads a Duration.
func (b *Bound) UnmarshalText(text []byte) error {
	var d Duration
	if err := d.UnmarshalText(text); err != nil {
		return err
	}
	*b = Bound(max(d, 1)) // no time at all is not the same as nothing said
	return nil
}

// MarshalText writes b as String does.
func (b Bound) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

func (b Bound) String() string {
	if b == 1 {
		return "0s"
	}
	return Duration(b.time()).String()
}

func (b Bound) time() time.Duration {
	if b == 0 {
		return time.Duration(Forever)
	}
	return time.Duration(b)
}

func (d Duration) String() string {
	const day = Duration(24 * time.Hour)
	switch {
	case d == Forever:
		return "forever"
	case d >= day && d%day == 0:
		return strconv.Itoa(int(d/day)) + "d"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText writes d as String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Address is where a server listens: host:port, :port for every address, or off.
type Address string

// Off is the Address of a listener that there shall not be.
const Off Address = "off"

// UnmarshalText reads a host and a port.
func (a *Address) UnmarshalText(b []byte) error {
	if s := Address(b); s == Off {
		*a = s
		return nil
	}
	host, port, err := net.SplitHostPort(string(b))
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || strings.ContainsAny(host, "/ ") {
		return fmt.Errorf("%q is no address: write 127.0.0.1:5000, [::1]:5000, or :5000 for every address", b)
	}
	*a = Address(b)
	return nil
}

// Public reports whether others than this machine can reach a.
func (a Address) Public() bool {
	host, _, err := net.SplitHostPort(string(a))
	return err == nil && !loopback(host)
}

// Endpoint is the base URL of a registry.
type Endpoint url.URL

// UnmarshalText reads an http or https URL. Logins have a place of their own.
func (e *Endpoint) UnmarshalText(b []byte) error {
	u, err := url.Parse(string(b))
	switch {
	case err != nil: // not shown: it may hold a password
		return errors.New("this is no URL: write https://host")
	case u.User != nil:
		return fmt.Errorf("%q has a login in it: logins go under credentials", u.Redacted())
	case (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "":
		return fmt.Errorf("%q is no registry's URL: write https://host, or http://host where it has no TLS", b)
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%q says too much: a registry's URL has no query and no fragment", b)
	}
	if p := u.Port(); p != "" {
		if _, err := strconv.ParseUint(p, 10, 16); err != nil {
			return fmt.Errorf("%q has no such port", b)
		}
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	*e = Endpoint(*u)
	return nil
}

func (e Endpoint) String() string { return (*url.URL)(&e).String() }

// MarshalText writes e as String does.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// exposed reports whether what is sent to e crosses a network unencrypted.
func (e Endpoint) exposed() bool { return e.Scheme == "http" && !loopback((*url.URL)(&e).Hostname()) }

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// The words that some keys choose from.
type (
	// LogFormat is how log lines look.
	LogFormat string
	// LogLevel is the least urgent line that is logged.
	LogLevel string
	// Ranges says when a range of what is still arriving goes out.
	Ranges string
	// OnDelete says what becomes of a tag that its upstream has no more.
	OnDelete string

	// Fill says when a blob of which only ranges were asked for is fetched whole.
	Fill string
)

// Words lists what may be said, the usual first.
func (LogFormat) Words() []string { return []string{"console", "json"} }

// Words lists what may be said, the usual first.
func (LogLevel) Words() []string { return []string{"info", "debug", "warn", "error"} }

// Words lists what may be said, the usual first.
func (Ranges) Words() []string { return []string{"arrived", "proven"} }

// Words lists what may be said, the usual first.
func (Fill) Words() []string { return []string{"auto", "whole", "asked"} }

// Words are what OnDelete may be.
func (OnDelete) Words() []string { return []string{"follow", "keep"} }

func (f *LogFormat) UnmarshalText(b []byte) error { return choose(f, b) }
func (l *LogLevel) UnmarshalText(b []byte) error  { return choose(l, b) }
func (r *Ranges) UnmarshalText(b []byte) error    { return choose(r, b) }
func (f *Fill) UnmarshalText(b []byte) error      { return choose(f, b) }

// UnmarshalText takes one of Words.
func (o *OnDelete) UnmarshalText(b []byte) error { return choose(o, b) }

type words interface {
	~string
	Words() []string
}

func choose[W words](w *W, b []byte) error {
	if all := (*w).Words(); !slices.Contains(all, string(b)) {
		return fmt.Errorf("%q is none of %s", b, strings.Join(all, ", "))
	}
	*w = W(b)
	return nil
}
