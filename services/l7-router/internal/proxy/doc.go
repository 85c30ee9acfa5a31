// Package proxy moves the bytes with the means of package net: it accepts the connections of clients, and carries each
// request to a server and its response back.
//
// This driver spends one goroutine on each client connection, plus one while a request body that has not come whole is
// sent on. Everything that is decided about a request is decided in package exchange, which knows no sockets; package
// epoll is the other driver, the one for cleartext. Both pass the suite of package proxytest.
package proxy
