// Package proxy moves the bytes: it accepts the connections of clients, and carries each request to a server and its
// response back.
//
// This driver spends one goroutine on each client connection, plus one while a request body that has not come whole is
// sent on. Everything that is decided about a request is decided in package exchange, which knows no sockets, so that
// another driver can stand beside this one.
package proxy
