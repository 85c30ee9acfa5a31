//go:build race

package planetest

// raced: this binary has the race detector in it.
const raced = true
