// Package epoll moves the bytes of cleartext HTTP/1.1 with as little work for each request as can be: one epoll loop for
// each core, each with its own listening sockets, client connections, connections to servers, timers and buffers.
//
// A connection stays in the loop that accepted it, and so does everything that it uses: nothing in a loop is locked.
// Sockets never block and are watched edge-triggered, so that a request costs no system calls but those that move its
// bytes. A connection on which nothing is under way is a small struct; what a request needs (flight) is borrowed.
//
// How to read it: loop waits for events and calls the ready method of whoever they are for. A conn is one client
// connection; its ready method makes steps from phase to phase until it has to wait. Two streams move what is under way,
// one in each direction. Everything that is decided about a request is decided in package exchange.
package epoll
