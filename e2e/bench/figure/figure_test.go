package figure

import (
	"strings"
	"testing"
)

func TestLines(t *testing.T) {
	t.Parallel()
	base := Figure{Bench: "b", Case: "c", Metric: "m", Unit: "u", ReferenceName: "other", Better: Lower, Goal: 0.85}
	higher := base
	higher.Better, higher.Goal = Higher, 1.1
	absolute := base
	absolute.Goal, absolute.ReferenceName = 50, ""
	tests := []struct {
		name string
		got  Figure
		want string
	}{
		{"lower, reached", Compare(base, []float64{9, 8, 100}, []float64{12, 1, 12}), `"ours":9,"reference":12,"reference_name":"other","ratio":0.75,"better":"lower","goal":0.85,"pass":true`},
		{"lower, missed", Compare(base, []float64{9}, []float64{10}), `"ours":9,"reference":10,"reference_name":"other","ratio":0.9,"better":"lower","goal":0.85,"pass":false`},
		{"higher, reached", Compare(higher, []float64{12345.678}, []float64{10000}), `"ours":12350,"reference":10000,"reference_name":"other","ratio":1.235,"better":"higher","goal":1.1,"pass":true`},
		{"without reference", Absolute(absolute, []float64{1, 3}, nil), `"ours":2,"reference":null,"ratio":null,"better":"lower","goal":50,"pass":true`},
		{"nothing measured", Compare(base, []float64{1}, nil), `"ours":1,"reference":0,"reference_name":"other","ratio":null,"better":"lower","goal":0.85,"pass":false`},
	}
	for _, test := range tests {
		var out strings.Builder
		if err := test.got.Print(&out); err != nil {
			t.Fatal(err)
		}
		if want := `{"bench":"b","case":"c","metric":"m","unit":"u",` + test.want + "}\n"; out.String() != want {
			t.Errorf("%s:\ngot  %swant %s", test.name, out.String(), want)
		}
	}
}
