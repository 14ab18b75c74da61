package cluster

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	minSecret  = 16       // bytes: 128 bits where they are random, which a key derived from them cannot make up for
	maxSecrets = 8        // each is tried on every packet that no other fits
	maxFile    = 64 << 10 // bytes of a file of secrets: what is longer is some other file
	reread     = 10 * time.Second
)

// What is derived from a secret goes by these labels, so that none of it tells anything about another.
const (
	labelGossip = "tidepool cluster gossip v1"
	labelCA     = "tidepool cluster certificate authority v1"
)

// ReadSecrets reads a cluster's secrets from a file, one a line, at least 16 bytes each. The first one sends and
// issues, all of them are believed. So a secret is replaced without a gap in three steps, each at all members before
// the next: add the new one below, move it to the top, take the old one out.
func ReadSecrets(file string) ([][]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cluster: cannot read the secrets: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cluster: cannot read the secrets: %w", err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("cluster: %s is longer than %d bytes, and so no file of secrets: write one a line", file, maxFile)
	}
	var secrets [][]byte
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			secrets = append(secrets, line)
		}
	}
	if err := checkSecrets(secrets); err != nil {
		return nil, fmt.Errorf("%w (in %s)", err, file)
	}
	return secrets, nil
}

// FollowSecrets reads file every ten seconds until ctx ends, and where its secrets are others than have was, gives them
// to each of follow. It reads the content and no times, because where a file comes from a mounted volume only a link
// changes. A file that cannot be read, or holds no secrets, changes nothing; complain hears why, once.
func FollowSecrets(ctx context.Context, file string, have [][]byte, complain func(error), follow ...func([][]byte) error) {
	tick := time.NewTicker(reread)
	defer tick.Stop()
	for said := ""; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := ReadSecrets(file)
		if err == nil && !slices.EqualFunc(have, now, bytes.Equal) {
			have = now
			for _, f := range follow {
				err = errors.Join(err, f(now))
			}
		}
		if err == nil {
			said = ""
		} else if said != err.Error() {
			said = err.Error()
			complain(err)
		}
	}
}

func checkSecrets(secrets [][]byte) error {
	if len(secrets) == 0 {
		return errors.New("cluster: there is no secret: write one of at least 16 random bytes, such as from openssl rand -base64 32")
	}
	if len(secrets) > maxSecrets {
		return fmt.Errorf("cluster: there are %d secrets, and each is tried on every packet: keep at most %d", len(secrets), maxSecrets)
	}
	for i, s := range secrets {
		if len(s) < minSecret {
			return fmt.Errorf("cluster: secret %d has %d bytes and could be guessed: use at least %d random ones", i+1, len(s), minSecret)
		}
	}
	return nil
}

// derive makes a key of 32 bytes for one purpose.
func derive(secret []byte, label string) ([]byte, error) {
	return hkdf.Key(sha256.New, secret, nil, label, 32)
}

// processSecret is what members without a secret share: they are in this process, and nobody else knows it. So a
// cluster without a secret on loopback is closed to the other users of the machine, too.
var processSecret = sync.OnceValue(func() []byte { return []byte(rand.Text() + rand.Text()) })

// orProcess is secrets, or this process's own where there are none.
func orProcess(secrets [][]byte) [][]byte {
	if len(secrets) == 0 {
		return [][]byte{processSecret()}
	}
	return secrets
}
