//go:build race

package sim_test

const most = 20 // each takes some eight times as long
