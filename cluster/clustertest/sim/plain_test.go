//go:build !race

package sim_test

const most = 200
