package cluster

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/hashicorp/memberlist"
)

// gossipKeys are the keys of the secrets, in their order.
func gossipKeys(secrets [][]byte) ([][]byte, error) {
	if err := checkSecrets(secrets); err != nil {
		return nil, err
	}
	var keys [][]byte
	for _, s := range secrets {
		k, err := derive(s, labelGossip)
		if err != nil {
			return nil, fmt.Errorf("cluster: cannot derive a gossip key from a secret: %w", err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func keyring(secrets [][]byte) (*memberlist.Keyring, error) {
	keys, err := gossipKeys(secrets)
	if err != nil {
		return nil, err
	}
	return memberlist.NewKeyring(keys, keys[0])
}

// turn makes ring hold keys alone, the first of them sending, without a moment in which a packet by one of the kept keys
// could not be read. The keyring hands its slice out and removes within it, under the feet of who reads it, unless it
// is the last one that goes: so the kept ones are brought to the front first.
func turn(ring *memberlist.Keyring, keys [][]byte) error {
	for _, k := range keys {
		if err := ring.AddKey(k); err != nil {
			return err
		}
	}
	for _, k := range slices.Backward(keys) {
		if err := ring.UseKey(k); err != nil {
			return err
		}
	}
	for _, old := range slices.Backward(ring.GetKeys()) {
		if !slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, old) }) {
			if err := ring.RemoveKey(old); err != nil {
				return err
			}
		}
	}
	return nil
}
