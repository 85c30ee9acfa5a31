// Package figure prints what a bench has measured: one JSON object a line, the same form for every bench.
package figure

import (
	"encoding/json"
	"io"
	"math"
	"slices"
)

// Better says which way of a figure is good.
type Better string

// The two ways.
const (
	Lower  Better = "lower"
	Higher Better = "higher"
)

// Figure is one line.
type Figure struct {
	Bench  string  `json:"bench"`
	Case   string  `json:"case"`
	Metric string  `json:"metric"`
	Unit   string  `json:"unit"`
	Ours   float64 `json:"ours"`
	// Reference is what the incumbent reaches on the same machine in the same run; nil: there is none.
	Reference     *float64 `json:"reference"`
	ReferenceName string   `json:"reference_name,omitempty"`
	// Ratio is Ours divided by Reference; nil without one.
	Ratio  *float64 `json:"ratio"`
	Better Better   `json:"better"`
	// Goal is for the ratio where there is one, else for Ours.
	Goal float64 `json:"goal"`
	Pass bool    `json:"pass"`
}

// Compare makes a figure of the medians of rounds in which both took turns; the goal is one for the ratio.
func Compare(f Figure, ours, reference []float64) Figure {
	theirs := Median(reference)
	f.Ours, f.Reference = rounded(Median(ours)), new(rounded(theirs))
	if theirs > 0 {
		f.Ratio = new(rounded(Median(ours) / theirs))
		f.Pass = f.good(*f.Ratio)
	}
	return f
}

// Absolute makes a figure whose goal is in its own unit. A reference may be given beside it, or nil.
func Absolute(f Figure, ours, reference []float64) Figure {
	f.Ours = rounded(Median(ours))
	if len(reference) > 0 {
		f.Reference = new(rounded(Median(reference)))
	}
	f.Pass = f.good(f.Ours)
	return f
}

func (f *Figure) good(value float64) bool {
	if f.Better == Higher {
		return value >= f.Goal
	}
	return value <= f.Goal
}

// Print writes the line.
func (f Figure) Print(w io.Writer) error { return json.NewEncoder(w).Encode(f) }

// Median returns the middle value, or the mean of the two middle ones; 0 of none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// rounded keeps four digits: more would be noise.
func rounded(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}
