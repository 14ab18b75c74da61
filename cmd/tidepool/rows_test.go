package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// row is a fault that a tidepool has to bear, by its number in the table of faults that this project was planned with:
// clients 1 to 11, upstreams to 32, networks to 36, disks to 49, the process's own life from 56 to 61, a cluster from 62 to
// 73, its log 80. Each is a test here, in a bubble; or it is tested elsewhere, where names the tests, package.Test; why says
// why not here, or what cannot be tested on one machine.
type row struct {
	n     int
	name  string
	test  func(t *testing.T)
	where []string
	why   string
}

// String is the row's name as a test.
func (r *row) String() string {
	return fmt.Sprintf("%d_%s", r.n, strings.ReplaceAll(r.name, " ", "_"))
}

var rows = []row{
	{n: 1, name: "client leaves in the middle", test: rowClientLeaves},
	{n: 2, name: "client reads a byte per second", test: rowSlowReaders},
	{n: 3, name: "slow headers, idle connections", where: []string{"proxy.TestSlowHeaders", "proxy.TestLimitPerClient", "proxy.TestClientsThatStopReading"}},
	{n: 4, name: "ranges, resumed and conditional", where: []string{"proxy.TestOneRangeLikeServeContent", "proxy.TestConditions", "proxy.TestPartOfAColdBlob", "proxy.TestHeadOfAColdBlob"}},
	{n: 5, name: "a thousand clients of one cold blob", test: rowThousandClients},
	{n: 6, name: "a thousand cold blobs at once", test: rowThousandBlobs},
	{n: 7, name: "retry storm", test: rowRetryStorm},
	{n: 8, name: "malformed and smuggled requests", where: []string{"proxy.TestSmuggling", "proxy.TestPipelining", "proxy.FuzzRequest"}},
	{n: 9, name: "abuse of HTTP/2", where: []string{"proxy.TestCVE_2023_39325_HTTP2Floods", "proxy.TestHTTP2"}, why: "the door itself speaks HTTP/1.1 unless it is given TLS"},
	{n: 10, name: "client wants no cache", test: rowNoCache},
	{n: 11, name: "digest that no tag has named", test: rowByDigest},
	{n: 12, name: "connection refused", test: func(t *testing.T) { rowConnectionRefused(t); rowNoSuchName(t) }},
	{n: 13, name: "black hole", test: rowBlackHole},
	{n: 14, name: "accepts and never answers", test: rowNoAnswer},
	{n: 15, name: "stalls in the middle", test: rowStalls},
	{n: 16, name: "truncates", test: rowTruncates},
	{n: 17, name: "sends too much", test: rowTooMuch},
	{n: 18, name: "wrong bytes", test: func(t *testing.T) { rowWrongBytes(t); rowWrongRange(t) }},
	{n: 19, name: "rate limit", test: rowRateLimit},
	{n: 20, name: "credentials rotated", test: rowCredentials},
	{n: 21, name: "tag and digest deleted", test: rowDeleted},
	{n: 22, name: "server errors for an hour", test: rowServerErrors},
	{n: 23, name: "tag moves during a pull", test: rowTagMoves},
	{n: 24, name: "child of an index missing", test: rowChildMissing},
	{n: 25, name: "captive portal", where: []string{"tidepool.TestFaults"}},
	{n: 26, name: "redirects", where: []string{"tidepool.TestFaults", "upstream.TestRedirectsEnd", "upstream.TestRedirectToPlainHTTP", "upstream.TestSSRF_RedirectInside", "upstream.TestCVE_2026_50151_AuthorizationAcrossRedirects"}},
	{n: 27, name: "signed URL expires", test: rowSignedURLExpires},
	{n: 28, name: "token server misbehaves", test: rowTokenServer},
	{n: 29, name: "TLS", where: []string{"upstream.TestCVE_2019_10214_TLSIsVerifiedForEachHost", "upstream.TestCVE_2014_5277_NoFallbackToPlainHTTP"}},
	{n: 30, name: "HTTP/2 stream reset, connection reset", where: []string{"tidepool.TestHTTP2Breaks", "tidepool.TestFaults", "upstream.TestBlobsOverHTTP1", "upstream.TestHubWithHTTP2Only"}},
	{n: 31, name: "mirrors disagree", test: rowMirrorsDisagree},
	{n: 32, name: "slow upstream, many clients", test: rowSlowUpstream},
	{n: 33, name: "lossy and narrow line", where: []string{"tidepool.TestLossyAndNarrowLine", "upstream.TestSlowBlob"}},
	{n: 34, name: "half-open connection", where: []string{"tidepool.TestHalfOpenConnections", "upstream.TestDeadRegistriesAreNoticed", "proxy.TestDeadClientsAreNoticed", "upstream.TestTimeouts"}},
	{n: 35, name: "ports exhausted", where: []string{"tidepool.TestPortsExhausted", "upstream.TestScarcityIsNoFaultOfARegistry", "upstream.TestFetchesAreLimited"}},
	{n: 36, name: "upstream changes its address", where: []string{"upstream.TestHubMoves"}},
	{n: 37, name: "no space on disk", test: rowDiskFull, where: []string{"cache.TestFullDisk", "cache.TestFaultForAWhile"}},
	{n: 38, name: "no inodes", where: []string{"cache.TestInodesExhausted"}},
	{n: 39, name: "read error", where: []string{"cache.TestReadError", "cache.TestFaultOnce"}},
	{n: 40, name: "write and sync errors", where: []string{"cache.TestFailedSync", "cache.TestFaultOnce", "cache.TestFaultForAWhile"}},
	{n: 41, name: "read-only disk", where: []string{"cache.TestFaultForAWhile", "cache.TestReadOnlyStart"}},
	{n: 42, name: "bit flip at rest", test: rowBitFlip, where: []string{"cache.TestScrub"}},
	{n: 43, name: "file replaced", test: rowReplaced, where: []string{"cache.TestDamaged"}},
	{n: 44, name: "file deleted by hand", where: []string{"cache.TestDamaged"}, why: "row 43 deletes one too"},
	{n: 45, name: "slow disk", test: rowSlowDisk, where: []string{"cache.TestSlowSync"}, why: "what is being fetched goes by way of the disk, at its pace"},
	{n: 46, name: "disk full of foreign files", why: "the budget shrinks with what is free", where: []string{"cache.TestRestartEvictsNothing"}},
	{n: 47, name: "wrong file times", where: []string{"cache.TestFileTimes"}},
	{n: 48, name: "store on NFS or overlay", where: []string{"tidepool.TestStoreOnOverlay"}, why: "no NFS server is at hand: flock and rename are used as POSIX has them"},
	{n: 49, name: "two processes on one directory", test: rowTwoProcesses, where: []string{"cache.TestTwoProcesses"}},
	{n: 56, name: "kill -9", where: []string{"tidepool.TestKilledAmongPulls", "tidepool.TestLargeBlob", "cache.TestCrash"}},
	{n: 57, name: "power cut", where: []string{"cache.TestCrash", "cache.TestSyncedBeforeNamed"}},
	{n: 58, name: "panic in a handler", where: []string{"proxy.TestPanic", "proxy.TestPanicInTheMiddle"}},
	{n: 59, name: "SIGTERM under load", where: []string{"tidepool.TestDrain", "tidepool.TestStop", "tidepool.TestDrainIsBounded"}},
	{n: 60, name: "another format on disk", where: []string{"cache.TestNewerFormat", "cache.TestBadState"}, why: "there has been one format so far, so none is older"},
	{n: 61, name: "start with a million blobs", where: []string{"cache.TestRestart"}, why: "the path of content follows from its digest, so nothing is scanned before it is served; the time of the scan is measured, not tested"},
	{n: 62, name: "owner dead, not yet suspected", where: []string{"tidepool.TestClusterStandsStill", "tidepool.TestClusterUnderFire", "cluster.TestDeadMembers"}},
	{n: 63, name: "owner slow", where: []string{"tidepool.TestClusterInNetworks", "cluster.TestSlowRegistry", "tidepool.TestClusterSlowHub"}},
	{n: 64, name: "owner returns wrong bytes", where: []string{"cluster.TestEvilMember", "cluster.TestLyingMember", "cluster.TestLiarsAreLeftAlone"}},
	{n: 65, name: "partition, then heal", where: []string{"tidepool.TestClusterInNetworks", "cluster.TestAPartitionHeals", "cluster.TestAPartitionHealsWithoutSeeds"}},
	{n: 66, name: "partition one way only", where: []string{"tidepool.TestClusterInNetworks", "cluster.TestOneWayOnly"}},
	{n: 67, name: "a third restarts at once", where: []string{"tidepool.TestClusterThirdRestarts", "cluster.TestAllRestartWithNewAddresses", "cluster.TestJoin", "cluster.TestJoinsMoveTheirShareOnAverage"}},
	{n: 68, name: "names in conflict, addresses that change", where: []string{"cluster.TestTwoWithOneName", "cluster.TestBackBeforeItWasMissed", "cluster.TestAllRestartWithNewAddresses"}},
	{n: 69, name: "mixed versions", where: []string{"cluster.TestAMemberOfALaterVersion", "cluster.TestMetaOfOtherVersions"}, why: "there has been one version so far, so an old program is not at hand"},
	{n: 70, name: "gossip key rotated", where: []string{"tidepool.TestClusterRotates", "cluster.TestRotationBreaksNoQuestion", "cluster.TestRotationDropsNobody", "cluster.TestFollowSecrets"}},
	{n: 71, name: "forwarding loop", where: []string{"cluster.TestDisagreement", "cache.TestStraightened"}},
	{n: 72, name: "malicious or unknown node", where: []string{"cluster.TestStrangersNeverJoin", "cluster.TestOneWithoutAKeyNeverJoins", "cluster.TestStrangersAreRefused", "cluster.TestGarbage", "cluster.TestGarbageChangesNothing", "cluster.TestGarbageWithTheKeyBreaksNothing", "cluster.TestAMemberThatLies", "cluster.TestARemovedMemberIsOut"}},
	{n: 73, name: "UDP blocked, TCP open", where: []string{"tidepool.TestClusterInNetworks", "cluster.TestStreamsAlone"}},
	{n: 80, name: "log that nobody reads", where: []string{"tidepool.TestLogThatNobodyReads", "tidepool.TestLogWhoseReaderIsGone", "tidepool.TestSinkDropsAndTells"}},
}

func TestRow(t *testing.T) {
	for _, r := range rows {
		if r.test != nil {
			bubble(t, r.String(), r.test)
		}
	}
}

// Every row is there, and every test that one names.
func TestRowsAreComplete(t *testing.T) {
	var want []int
	for n := 1; n <= 73; n++ {
		if n < 50 || n > 55 {
			want = append(want, n)
		}
	}
	want = append(want, 80)
	exists := testNames(t)
	var got []int
	for _, r := range rows {
		got = append(got, r.n)
		if r.test == nil && len(r.where) == 0 && r.why == "" {
			t.Errorf("%v: neither tested nor excused", &r)
		}
		for _, name := range r.where {
			if !exists[name] {
				t.Errorf("%v: there is no test %s", &r, name)
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("rows %v, want %v", got, want)
	}
}

// testNames are all tests of the module, as package.Test, by what their files say.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if ok && fn.Recv == nil && (strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Fuzz")) {
				names[filepath.Base(filepath.Dir(path))+"."+fn.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
