// Package proxytest is the suite of tests that every connection driver passes unchanged: what a client and a server see of
// the router, whichever way the bytes are moved.
package proxytest

import "testing"

// Run runs the suite. The calling test must not be parallel: one of the suite counts what the whole process allocates.
func Run(t *testing.T, open Open) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"RequestAllocatesNothing", testRequestAllocatesNothing},
		{"StreamWithoutDescriptors", testStreamWithoutDescriptors},
		{"QuietTunnelsHoldNoPipes", testQuietTunnelsHoldNoPipes},
		{"ChangeUnderLoad", testChangeUnderLoad},
		{"RemovedFrontendDrains", testRemovedFrontendDrains},
		{"AddressInUse", testAddressInUse},
		{"SecondRouter", testSecondRouter},
		{"ListenerLostIsBoundAgain", testListenerLostIsBoundAgain},
		{"QueuedConnectionsAreServed", testQueuedConnectionsAreServed},
		{"OrderLikeHAProxy", testOrderLikeHAProxy},
		{"BalanceLikeHAProxy", testBalanceLikeHAProxy},
		{"HashesLikeHAProxy", testHashesLikeHAProxy},
		{"CookiesLikeHAProxy", testCookiesLikeHAProxy},
		{"BrokenBodies", testBrokenBodies},
		{"RefusalAfterHEAD", testRefusalAfterHEAD},
		{"BytesAfterTheLastRequest", testBytesAfterTheLastRequest},
		{"Cookies", testCookies},
		{"Redispatch", testRedispatch},
		{"ConnectTimeout", testConnectTimeout},
		{"StaleIdleConnection", testStaleIdleConnection},
		{"KeepAliveReuse", testKeepAliveReuse},
		{"PostOnStaleConnection", testPostOnStaleConnection},
		{"PipelinedRequests", testPipelinedRequests},
		{"Refused", testRefused},
		{"LargeHeadIsTaken", testLargeHeadIsTaken},
		{"AnswersOfItsOwn", testAnswersOfItsOwn},
		{"Rules", testRules},
		{"Tarpit", testTarpit},
		{"UnfinishedHeadTimesOut", testUnfinishedHeadTimesOut},
		{"UnfinishedBodyTimesOut", testUnfinishedBodyTimesOut},
		{"SpecialResponses", testSpecialResponses},
		{"InterimResponsesAreBounded", testInterimResponsesAreBounded},
		{"OldClients", testOldClients},
		{"Continue", testContinue},
		{"Upgrade", testUpgrade},
		{"MaxConn", testMaxConn},
		{"GracefulStop", testGracefulStop},
		{"Counters", testCounters},
		{"StatsPage", testStatsPage},
		{"Streams", testStreams},
		{"BackPressure", testBackPressure},
		{"SlowClient", testSlowClient},
		{"ServerKilledMidBody", testServerKilledMidBody},
		{"ClientGone", testClientGone},
		{"EarlyRefusal", testEarlyRefusal},
		{"HTTP2", testHTTP2},
		{"HTTP2Off", testHTTP2Off},
		{"HTTP2Cancel", testCancel2},
		{"HTTP2Stop", testStop2},
		{"HTTP2Reset", testReset2},
		{"OldClientBeforeH2C", testOldClientBeforeH2C},
		{"ServerGoesAway", testServerGoesAway},
		{"H2Spec", testH2Spec},
		{"AcceptProxy", testAcceptProxy},
		{"TunnelTimeouts", testTunnelTimeouts},
		{"LingerTimeout", testLingerTimeout},
		{"RefusedProxy", testRefusedProxy},
		{"SendProxy", testSendProxy},
		{"ProxyWithHAProxy", testProxyWithHAProxy},
		{"OddRequests", testOddRequests},
		{"OddResponses", testOddResponses},
		{"AdminStates", testAdminStates},
		{"ShutdownSessions", testShutdownSessions},
		{"Differential", testDifferential},
		{"Limits", testLimits},
		{"SlowBodies", testSlowBodies},
		{"SlowReader", testSlowReader},
		{"SlowServerIsNotTheClientsFault", testSlowServerIsNotTheClientsFault},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open) })
	}
}
