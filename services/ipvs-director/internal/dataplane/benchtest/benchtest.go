// Package benchtest measures the data planes: what a state costs, and what packets and connections do. scripts/bench-director
// runs it, in the kernels where each plane is.
package benchtest
