package config

import (
	"fmt"
	"net"
	"strings"

	"github.com/tidepool-oci/tidepool/cluster"
)

// Cluster says with whom this tidepool shares its cache.
type Cluster struct {
	Bind       Address `yaml:"bind" doc:"where members gossip, by UDP and TCP: host:port; off: there is no cluster"`
	Advertise  string  `yaml:"advertise" doc:"where the other members reach bind: an address, or address:port; without it, bind itself or this host's private address"`
	SecretFile string  `yaml:"secret_file" doc:"file of the cluster's secrets, one a line, at least 16 bytes each; the first sends, all are believed; read anew when it changes"`
	TLSCert    string  `yaml:"tls_cert" doc:"file of a certificate for fetching between members, in the place of the one that is made from the secret; its first DNS name is the member's name"`
	TLSKey     string  `yaml:"tls_key" doc:"file of its key"`
	TLSCA      string  `yaml:"tls_ca" doc:"file of the authorities whose certificates members have, and nobody else"`
	Join       Joins   `yaml:"join" doc:"members to begin with: addresses, or names that resolve to one or several; with a port, or by bind's"`
	PeerListen Address `yaml:"peer_listen" doc:"where members fetch from this one: host:port; without it, bind's host and a free port"`
	Name       string  `yaml:"name" doc:"this member's name, unique in the cluster; without it, one that is kept in the data directory"`
	Zone       string  `yaml:"zone" doc:"what fails together with this member"`
	Weight     int     `yaml:"weight" doc:"how much this member owns, beside one of weight 1"`
	Replicas   int     `yaml:"replicas" doc:"how many members keep a thing"`
	RepairRate Size    `yaml:"repair_rate" doc:"bytes a second that this member takes of what others have it keep after a change of the members; 0: without bound"`
}

// mostReplicas: beyond the loss of four members at once the registry is still there.
const mostReplicas = 5

// Papers are the files of a given certificate; ok: there is one.
func (c Cluster) Papers() (p cluster.Papers, ok bool) {
	p = cluster.Papers{Cert: c.TLSCert, Key: c.TLSKey, CA: c.TLSCA}
	return p, p != cluster.Papers{}
}

func (l *layers) checkPapers() {
	p, ok := l.Cluster.Papers()
	if !ok {
		return
	}
	if p.Cert == "" || p.Key == "" || p.CA == "" {
		l.wrong("cluster.tls_cert", "tls_cert, tls_key and tls_ca go together: give all three, or none for certificates made from the secret")
		return
	}
	name, err := p.NameIn()
	switch {
	case err != nil:
		l.wrong("cluster.tls_cert", "%v", err)
		l.bad = append(l.bad, "cluster.tls_cert")
	case l.Cluster.Name != "" && l.Cluster.Name != name:
		l.wrong("cluster.name", "the certificate in cluster.tls_cert is of %q: leave the name out, or get a certificate for %q", name, l.Cluster.Name)
	}
}

// On reports whether there is a cluster.
func (c Cluster) On() bool { return c.Bind != "" && c.Bind != Off }

// Joins are addresses, as a list or with commas between them.
type Joins []string

// add takes what one flag or variable says.
func (j *Joins) add(text string) {
	for _, s := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
		*j = append(*j, s)
	}
}

func (l *layers) checkCluster() {
	c := l.Cluster
	if !c.On() {
		for key, said := range map[string]bool{
			"join": len(c.Join) > 0, "secret_file": c.SecretFile != "", "peer_listen": c.PeerListen != "", "advertise": c.Advertise != "",
			"name": c.Name != "", "zone": c.Zone != "", "replicas": c.Replicas != 1,
			"tls_cert": c.TLSCert != "", "tls_key": c.TLSKey != "", "tls_ca": c.TLSCA != "",
		} {
			if said {
				l.wrong("cluster."+key, "there is no cluster without a place to gossip: say cluster.bind (--cluster-bind), as 0.0.0.0:7946")
			}
		}
		return
	}
	if c.SecretFile == "" {
		l.wrong("cluster.bind", "members need a secret that nobody else has: say cluster.secret_file (--cluster-secret-file), a file with one of at least 16 bytes, as from openssl rand -hex 32")
	} else if _, err := cluster.ReadSecrets(c.SecretFile); err != nil {
		l.wrong("cluster.secret_file", "%v", err)
		l.bad = append(l.bad, "cluster.secret_file")
	}
	l.checkPapers()
	if c.Weight < 0 || c.Weight > cluster.MaxWeight {
		l.wrong("cluster.weight", "want 1 to %d", cluster.MaxWeight)
	}
	if c.Replicas < 1 || c.Replicas > mostReplicas {
		l.wrong("cluster.replicas", "want 1 to %d", mostReplicas)
	}
	if c.RepairRate < 0 {
		l.wrong("cluster.repair_rate", "want bytes a second, as 64MiB; or 0 for no bound")
	}
	if c.Name != "" {
		if err := cluster.CheckName(c.Name); err != nil {
			l.wrong("cluster.name", "%v", err)
		}
	}
	if c.PeerListen == Off {
		l.wrong("cluster.peer_listen", "the other members fetch from this one, so it must listen for them")
	}
	for i, j := range c.Join {
		if host, _, err := net.SplitHostPort(j); err == nil && host == "" || cluster.CheckSeed(j) != nil {
			l.wrong(fmt.Sprintf("cluster.join[%d]", i), "%q is no address: write 10.0.0.7, or a name, with :port where it is another than bind's", j)
		}
	}
	if c.Advertise != "" {
		if err := cluster.CheckAdvertise(c.Advertise); err != nil {
			l.wrong("cluster.advertise", "%v", err)
		}
	}
}
