package main

import (
	"strings"
	"testing"
)

// advisory is what went wrong in other registries, proxies and clients, by its numbers; where are the tests that show
// that it does not go wrong here, why is the reason where there is nothing to go wrong.
type advisory struct {
	ids   string
	where string
	why   string
}

const (
	noArchives   = "nothing is unpacked: layers, indexes and their compression pass as bytes, and there is no import yet"
	noSignatures = "no signature is looked at: those of images pass as content"
	goFloor      = "a flaw of Go's library, which govulncheck watches"
)

var advisories = []advisory{
	// Logins, token servers, redirects, and who is dialled.
	{"CVE-2026-33540 GHSA-3p65-76g6-3w7r", "upstream.TestCVE_2026_33540_TokenRealmOnForeignHost tidepool.TestFaults", ""},
	{"CVE-2020-15157", "upstream.TestCVE_2020_15157_DescriptorURLs", ""},
	{"CVE-2026-49349 GHSA-qvqc-4c52-x6qp containerd-2.3.5", "upstream.TestCVE_2020_15157_DescriptorURLs", ""},
	{"CVE-2026-48978 GHSA-xf85-363p-868w", "upstream.TestCVE_2026_48978_RealmRuleDoesNotOverblock upstream.TestCVE_2026_33540_TokenRealmOnForeignHost", ""},
	{"ggcr-2193 ggcr-2243 ggcr-2285 ggcr-2292 ggcr-2302 ggcr-2440", "upstream.TestSSRF_NamesThatLeadInside upstream.TestSSRF_Rebinding upstream.TestSSRF_ControlOfTheDialer", ""},
	{"CVE-2026-33990 GHSA-x2f5-332j-9xwq", "upstream.TestCVE_2026_33990_EveryPathToATokenIsGuarded", ""},
	{"GHSA-vh4v-2xq2-g5cg CVE-2026-50151 opa-6580 renovate-3877 moby-50065", "upstream.TestCVE_2026_50151_AuthorizationAcrossRedirects tidepool.TestRow", ""},
	{"CVE-2023-45289 CVE-2024-45336 CVE-2025-4673", "upstream.TestCVE_2026_50151_AuthorizationAcrossRedirects", "redirects are followed by our own loop, not by Go's client"},
	{"CVE-2026-2376 CVE-2026-0600 CVE-2022-27907 CVE-2020-13788 CVE-2026-10517", "upstream.TestCVE_2026_0600_ClientsCannotChooseWhomWeDial upstream.TestSSRF_RedirectInside tidepool.TestOneNameOneUpstream tidepool.TestAnyUpstreamNeverLeadsInside", ""},
	{"CVE-2025-59346 CVE-2026-54637", "cluster.TestGarbage cluster.FuzzQuestion cluster.TestMetaThatLies", "members ask each other for content by what it is, never by where it is"},
	{"git-pkgs-303", "tidepool.TestOneNameOneUpstream proxy.TestWaysIn", ""},
	{"CVE-2019-10214", "upstream.TestCVE_2019_10214_TLSIsVerifiedForEachHost", ""},
	{"CVE-2014-5277", "upstream.TestCVE_2014_5277_NoFallbackToPlainHTTP", ""},
	{"connaisseur-2166", "upstream.TestCredentialsAreForOneHostAndPort", ""},
	{"devcontainers-1276", "upstream.TestTokenRequestIsOurOwn", ""},
	{"CVE-2025-48374 GHSA-prh4-vhfh-24mj CVE-2019-13509 docker-registry-proxy-log", "tidepool.TestCVE_2025_48374_SecretsStayInside upstream.TestCVE_2025_48374_SecretsStayOutOfErrorsAndLogs upstream.TestSecretNeverShowsItself config.TestSecrets", ""},
	{"CVE-2026-42507", "upstream.TestCVE_2026_42507_ForeignTextIsOneLine proxy.TestErrorsStayOneLine proxy.TestLogLineOfNonsense", ""},
	{"CVE-2025-22870", "upstream.TestHTTPSProxy", goFloor},
	{"soci-1974", "upstream.TestSignedURLsAreNotKept tidepool.TestRow", ""},

	// Content: confused, poisoned, mistaken.
	{"CVE-2021-41190 GHSA-mc8v-mgrf-8f4m GHSA-77vh-xpmg-72qh GHSA-qq97-vm5h-rrhg GHSA-5j5w-g665-5m35 GHSA-xmmx-7jpf-fx42", "tidepool.TestCVE_2021_41190_TypeConfusion tidepool.TestAcceptSelectsNothing", ""},
	{"GHSA-qv35-3gw6-8q4j", "tidepool.TestFaults tidepool.TestRow proxy.TestWrongBytesAreCutOff proxy.TestHTTP10", ""},
	{"CVE-2025-59354 CVE-2025-59410 CVE-2025-59347 CVE-2025-59353", "cluster.TestEvilMember cluster.TestMembersKnowEachOther cluster.TestStrangersAreRefused cluster.TestPlainHTTPIsRefused", ""},
	{"CVE-2025-68121", "cluster.TestNothingIsResumed cluster.TestIdentitiesFollowTheSecrets cluster.TestRotationBreaksNoQuestion", ""},
	{"groupcache-HTTPPool CVE-2026-32748", "cluster.TestStrangersAreRefused cluster.TestGarbage", "a handshake without a certificate of ours fails before anything is read; who serves a client has let it in before it asks another member"},
	{"containerd-9b7fa61", "tidepool.TestKindsAreNotMixed", ""},
	{"harbor-23882 NEXUS-31354", "tidepool.TestFaults upstream.TestAnswersRefused upstream.TestBlobAnswersRefused", ""},
	{"CVE-2024-6915", "proxy.TestCVE_2024_6915_Spellings", ""},
	{"VSV00018 CVE-2022-23959 GLSA-201607-10 CVE-2019-16276 CVE-2022-1705 CVE-2025-22871 CVE-2022-41721 CVE-2023-29406 CVE-2026-39825", "proxy.TestSmuggling proxy.TestPipelining proxy.TestOddButLegal", "requests upstream are made from a parsed reference, never from what a client wrote"},
	{"host-header-poisoning", "proxy.TestHostHeaderChoosesNothing tidepool.TestOneNameOneUpstream tidepool.TestWaysInShareOneCache", ""},
	{"containerd-7488 oras-go-923 kraftkit-2195 CVE-2024-3727", "proxy.TestCVE_2024_3727_Digests proxy.FuzzRequest upstream.FuzzAnswer", ""},
	{"digest-algorithm-confusion NEXUS-18304", "tidepool.TestDigestsAreNotBelieved", ""},
	{"zot-4184 zot-4246 harbor-18170", "tidepool.TestRow tidepool.TestCVE_2021_41190_TypeConfusion", ""},
	{"CVE-2026-50195 CVE-2024-24557", "proxy.TestOnlyPulls tidepool.TestClaimedDigest", "only the upstream that a tag belongs to says what it is"},
	{"distribution-content-encoding", "tidepool.TestFaults upstream.TestAnswersRefused", ""},
	{"NEXUS-blob-as-manifest distribution-3122", "tidepool.TestKindsAreNotMixed", ""},
	{"dependency-confusion usd-2022-0042", "tidepool.TestOneNameOneUpstream", "upstreams that stand for several, one after the other, do not exist yet"},

	// Paths, files, archives.
	{"CVE-2022-47747 CVE-2024-4956 CVE-2021-3762 CVE-2014-9356 CVE-2014-9358", "tidepool.TestCVE_2022_47747_PathsStayInTheStore proxy.TestCVE_2024_4956_Traversal", ""},
	{"CVE-2025-59352", "cluster.TestGarbage cluster.FuzzQuestion", "members can ask, and not write"},
	{"CVE-2026-50162 CVE-2026-50163 ggcr-2306 ggcr-2232 ggcr-2227 ggcr-2250 CVE-2021-32760", "", noArchives},
	{"CVE-2025-22873 CVE-2026-27139 CVE-2026-39822 CVE-2025-0913", "tidepool.TestCVE_2022_47747_PathsStayInTheStore", "os.Root is not used: names are made of parsed digests alone"},
	{"CVE-2026-24137", "", noSignatures},
	{"CVE-2025-59349 CVE-2024-25621 CVE-2021-41103", "tidepool.TestCVE_2024_25621_StoreIsOursAlone", ""},

	// Exhaustion.
	{"CVE-2023-2253", "proxy.TestCVE_2023_2253_PageSize", ""},
	{"CVE-2017-11468 ggcr-1711 ggcr-2296 containerd-e95b753", "upstream.TestCVE_2017_11468_EndlessDocuments upstream.TestListsAreBounded upstream.TestReferrersAreBounded upstream.TestEndlessError tidepool.TestFaults", ""},
	{"CVE-2017-14992 CVE-2026-48702 CVE-2023-30551 CVE-2023-25153 CVE-2025-58183 CVE-2026-32288", "", noArchives},
	{"HCSEC-2026-18 memberlist-357 memberlist-361 memberlist-362 memberlist-363 memberlist-368 memberlist-369", "cluster.TestGarbageChangesNothing cluster.TestGarbageWithTheKeyBreaksNothing", ""},
	{"memberlist-security", "cluster.TestWithoutASecretNothingLeavesLoopback cluster.TestStrangersNeverJoin cluster.TestOneWithoutAKeyNeverJoins", ""},
	{"CVE-2023-28840 CVE-2023-28841 CVE-2023-28842", "cluster.TestGossipIsEncrypted cluster.TestOneWithoutAKeyNeverJoins", ""},
	{"CVE-2023-46737 CVE-2024-29902 CVE-2024-29903 CVE-2023-33957 CVE-2023-33958 CVE-2024-45395", "", noSignatures},
	{"CVE-2023-39325 CVE-2023-45288 CVE-2026-33814 CVE-2026-56853 CVE-2026-32283 CVE-2026-56862", "proxy.TestCVE_2023_39325_HTTP2Floods", goFloor + "; the door speaks HTTP/1.1 unless it is given TLS, and bounds streams then"},
	{"CVE-2025-58186 CVE-2025-61726 CVE-2026-56860 CVE-2023-24534", "tidepool.TestCVE_2025_58186_LargeRequests", ""},
	{"slowloris CVE-2020-7219", "proxy.TestSlowHeaders proxy.TestLimitPerClient proxy.TestClientsThatStopReading tidepool.TestRow", ""},
	{"CVE-2017-7529 CVE-2011-3192 squid-ranges", "proxy.TestCVE_2017_7529_RangeOverflow proxy.TestCVE_2011_3192_ManyRanges proxy.FuzzRange", ""},
	{"CVE-2026-49835", "tidepool.TestCVE_2026_49835_LabelsAreBounded tidepool.TestWhatAnyUpstreamAddsToTheMetrics", ""},
	{"CVE-2025-59351 VSV00009 CVE-2026-40396", "upstream.FuzzAnswer proxy.TestPanic proxy.TestPipelining tidepool.TestFaults", ""},
	{"CVE-2021-20291", "tidepool.TestFaults", "each fault's bubble fails where a goroutine waits for ever"},
}

// Every advisory is either tested, by tests that exist, or excused; none is there twice.
func TestAdvisories(t *testing.T) {
	exists, seen := testNames(t), map[string]bool{}
	for _, a := range advisories {
		for id := range strings.FieldsSeq(a.ids) {
			if seen[id] {
				t.Errorf("%s is there twice", id)
			}
			seen[id] = true
		}
		if a.where == "" && a.why == "" {
			t.Errorf("%s: neither tested nor excused", a.ids)
		}
		for name := range strings.FieldsSeq(a.where) {
			if !exists[name] {
				t.Errorf("%s: there is no test %s", a.ids, name)
			}
		}
	}
}
