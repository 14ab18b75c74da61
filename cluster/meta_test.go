package cluster

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

var here = netip.MustParseAddr("10.1.2.3")

// longest is as much as a member can say of itself.
func longest() Member {
	host := strings.Repeat(strings.Repeat("h", 62)+".", 4) // 252 bytes
	return Member{Name: "m", Addr: host + "h:65535", Zone: strings.Repeat("z", maxText), Weight: MaxWeight,
		State: Draining, Version: strings.Repeat("v", maxText)}
}

func TestMetaComesBackAsItWent(t *testing.T) {
	for _, m := range []Member{
		{Name: "m", Weight: 1},
		{Name: "m", Addr: "10.0.0.1:5002", Zone: "r1", Weight: 3, State: Ready, Version: "v1.2.3"},
		{Name: "m", Addr: "[fd00::1]:5002", Weight: 1, State: Joining},
		{Name: "m", Addr: "node-1.cluster.local:5002", Weight: 1, State: Draining, Zone: "Zürich"},
		longest(),
	} {
		b := encodeMeta(m)
		if back, err := decodeMeta(m.Name, here, b); err != nil || back != m {
			t.Errorf("%+v came back as %+v, %v", m, back, err)
		}
		if len(b) > metaMax {
			t.Errorf("%d bytes do not fit", len(b))
		}
	}
}

func TestMetaOfOtherVersions(t *testing.T) {
	known := Member{Name: "m", Addr: "10.0.0.1:5002", Weight: 1, State: Ready}
	later := append(encodeMeta(known), 200, 3, 'n', 'e', 'w', 77, 0)
	if m, err := decodeMeta("m", here, later); err != nil || m != known {
		t.Errorf("with fields of a later version: %+v, %v", m, err)
	}
	if m, err := decodeMeta("m", here, []byte{metaVersion, tagState, 1, 9}); err != nil || m.State != Joining {
		t.Errorf("a state of a later version is %v, %v: it must own nothing", m.State, err)
	}
	if _, err := decodeMeta("m", here, append([]byte{metaVersion + 1}, later[1:]...)); err == nil {
		t.Error("a version that no older one may read was read")
	}
}

func TestMetaWithoutAHost(t *testing.T) {
	for _, addr := range []string{":5002", "0.0.0.0:5002", "[::]:5002"} {
		m, err := decodeMeta("m", here, encodeMeta(Member{Addr: addr}))
		if err != nil || m.Addr != "10.1.2.3:5002" {
			t.Errorf("%s became %q, %v: want where its gossip comes from", addr, m.Addr, err)
		}
	}
}

func TestMetaThatLies(t *testing.T) {
	field := func(tag byte, value string) []byte {
		return append([]byte{metaVersion, tag, byte(len(value))}, value...)
	}
	for what, b := range map[string][]byte{
		"nothing":              nil,
		"a length beyond":      {metaVersion, tagZone, 200, 'z'},
		"a length without end": append([]byte{metaVersion, tagZone}, bytes.Repeat([]byte{0xff}, 11)...),
		"no length":            {metaVersion, tagZone},
		"no port":              field(tagAddr, "10.0.0.1"),
		"port 0":               field(tagAddr, "10.0.0.1:0"),
		"a port too high":      field(tagAddr, "10.0.0.1:65536"),
		"a port with a sign":   field(tagAddr, "10.0.0.1:+80"),
		"a path in the host":   field(tagAddr, "a/b:80"),
		"a login in the host":  field(tagAddr, "a@b:80"),
		"a line in the host":   field(tagAddr, "a\r\nb:80"),
		"a group":              field(tagAddr, "224.0.0.1:80"),
		"a long zone":          field(tagZone, strings.Repeat("z", maxText+1)),
		"a bell in the zone":   field(tagZone, "z\a"),
		"no text":              field(tagVersion, "\xff\xfe"),
		"weight 0":             {metaVersion, tagWeight, 1, 0},
		"weight 255":           {metaVersion, tagWeight, 1, 255},
		"513 bytes":            append([]byte{metaVersion, 99, 0xfd, 0x03}, make([]byte, 509)...),
	} {
		if m, err := decodeMeta("m", here, b); err == nil {
			t.Errorf("%s passed as %+v", what, m)
		}
	}
	if _, err := decodeMeta("No Name", here, encodeMeta(Member{})); err == nil {
		t.Error("a name that cannot be one passed")
	}
}

func FuzzMeta(f *testing.F) {
	f.Add("m", encodeMeta(longest()))
	f.Add("m", encodeMeta(Member{Addr: ":5002", State: Ready}))
	f.Add("*", []byte{metaVersion, 99, 1, 0, tagState, 1, 7})
	f.Add("m", []byte{metaVersion, tagZone, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		given := bytes.Clone(b)
		m, err := decodeMeta(name, here, b)
		clear(b) // it is memberlist's, and changes: nothing may have been kept of it
		if err != nil {
			return
		}
		if checkMember(m) != nil || m.Name != name || m.State > Draining || len(given) > metaMax {
			t.Fatalf("%q: %q passed as %+v", name, given, m)
		}
		again := encodeMeta(m)
		if back, err := decodeMeta(name, here, again); err != nil || back != m || len(again) > metaMax {
			t.Fatalf("%+v in %d bytes came back as %+v, %v", m, len(again), back, err)
		}
	})
}
