// Package netnstest gives a kernel test network namespaces of its own, and cables and switches between them.
package netnstest
