//go:build race

package main

// racing: the race detector is at work, with which everything takes some eight times as long. Tests that try one thing
// many times try it less often then, and .ci/steps has them try it in full without.
const racing = true
