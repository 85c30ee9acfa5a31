// Package transfer answers: how does the state of a source reach its target? The source connects to the target over TLS
// 1.3 on which both show their certificates, sends the list of its folder, then what the target lacks, then each change.
// It sends states, never events: whatever is sent twice or late does no harm, and what is lost is found by comparing.
//
// A message is a kind (1 byte), a length (4 bytes, big-endian) and a payload of at most 256 KiB.
//
//	source                                target
//	Hello version pair node       ->
//	                              <-      Welcome, or Refuse why
//	Entries… Listed watched       ->              compare with the own folder; delete what is too much
//	                              <-      Need path… Compared, or Held … Released (then the list comes again)
//	Put / File Content… FileEnd   ->              what is needed
//	                              <-      Ack for each: done, stale (send the content), or error (tried again later)
//	Finish                        ->              directories get their modes and times
//	                              <-      Ack
//	Put / File …                  ->              changes, for as long as both live
//	                              <-      Ack …
//	Ping waiting                  ->              every 5 s, and when nothing waits any more
//	                              <-      Pong    every 5 s
package transfer
