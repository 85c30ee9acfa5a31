// Command director measures the data planes of the ipvs-director: it runs the measurements of the service in the kernels where
// the planes are, and prints figures.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"

	"github.com/twotier/twotier/e2e/bench/figure"
)

// run is one program with measurements: in which kernel, which ones, for which planes.
type run struct {
	kernel, benchmark, planes string
	cases                     []string
}

// The scripts of the kernels; empty: this machine's.
const (
	here  = ""
	uml   = "scripts/uml-run"
	stock = "scripts/qemu-run"
)

var runs = []run{
	{here, "State", "nftables", []string{"full-apply", "noop-pass", "one-weight"}},
	{uml, "State", "ipvs", []string{"full-apply", "noop-pass", "one-weight"}},
	{stock, "Takeover", "nftables,ipvs", []string{"takeover"}},
	{stock, "Traffic", "nftables,ipvs", []string{"packet-cost", "conn-cost"}},
}

// The goals. A pass of a large state has to end long before the next is due to give up; what one weight costs must not grow with
// the state.
const (
	fullApply   = 4000 // ms
	noopPass    = 1000 // ms, the time from one look to the next
	growth      = 5    // a change in the large state against the small one
	memory      = 512  // MB
	beside      = 1.2  // CPU against IPVS
	takeoverGap = 1.5  // against IPVS with its synchronisation
)

// mark begins a line that is a measurement.
const mark = "measured "

type measured struct {
	Case   string  `json:"case"`
	Plane  string  `json:"plane"`
	Metric string  `json:"metric"`
	Value  float64 `json:"value"`
}

func main() {
	binary := flag.String("binary", "dist/bench/director.test", "`FILE` with the measurements")
	cases := flag.String("cases", "", "only these `CASES`, with commas between")
	n := flag.Int("rounds", 5, "`ROUNDS` of each")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var failed error
	for _, r := range runs {
		wanted := strings.Split(*cases, ",")
		if *cases != "" && !slices.ContainsFunc(r.cases, func(c string) bool { return slices.Contains(wanted, c) }) {
			continue
		}
		all, err := r.measure(ctx, *binary, *n)
		if err == nil {
			err = r.print(os.Stdout, all)
		}
		failed = errors.Join(failed, err)
	}
	if failed != nil {
		fmt.Fprintln(os.Stderr, "bench director:", failed)
		os.Exit(1)
	}
}

// measure runs the program. What it says besides goes to standard error.
func (r run) measure(ctx context.Context, binary string, rounds int) (all []measured, err error) {
	environment := []string{"TWOTIER_BENCH_PLANES=" + r.planes, "TWOTIER_BENCH_ROUNDS=" + strconv.Itoa(rounds)}
	argv := []string{binary, "-test.run", "^$", "-test.bench", "^Benchmark" + r.benchmark + "$", "-test.benchtime", "1x", "-test.timeout", "0"}
	if r.kernel != here {
		options := []string{"-t", "3600"}
		for _, e := range environment {
			options = append(options, "-e", e)
		}
		argv = slices.Concat([]string{r.kernel}, options, argv)
	}
	command := exec.CommandContext(ctx, argv[0], argv[1:]...)
	command.Env, command.Stderr = append(os.Environ(), environment...), os.Stderr
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		_, text, found := strings.Cut(lines.Text(), mark)
		var m measured
		if !found || json.Unmarshal([]byte(text), &m) != nil {
			fmt.Fprintln(os.Stderr, lines.Text())
			continue
		}
		all = append(all, m)
	}
	if err := command.Wait(); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", r.benchmark, r.planes, err)
	}
	return all, nil
}

// print turns measurements into figures.
func (r run) print(w io.Writer, all []measured) error {
	values := func(c, plane, metric string) (some []float64) {
		for _, m := range all {
			if m.Case == c && m.Plane == plane && m.Metric == metric {
				some = append(some, m.Value)
			}
		}
		return some
	}
	var figures []figure.Figure
	add := func(f figure.Figure) { figures = append(figures, f) }
	for _, c := range r.cases {
		base := figure.Figure{Bench: "director", Case: c, Better: figure.Lower}
		switch c {
		case "takeover", "packet-cost", "conn-cost":
			base.Metric, base.Unit, base.Goal, base.ReferenceName = "cpu", "us", beside, "ipvs"
			if c == "takeover" {
				base.Metric, base.Unit, base.Goal, base.ReferenceName = "gap", "ms", takeoverGap, "ipvs with its synchronisation daemon"
				for _, plane := range strings.Split(r.planes, ",") {
					lost := base
					lost.Case, lost.Metric, lost.Unit, lost.Goal, lost.ReferenceName = c+"-"+plane, "lost", "connections", 0, ""
					add(figure.Absolute(lost, values(c, plane, "lost"), nil))
				}
			}
			add(figure.Compare(base, values(c, "nftables", base.Metric), values(c, "ipvs", base.Metric)))
		default:
			base.Case, base.Metric, base.Unit = c+"-"+r.planes, "time", "ms"
			switch c {
			case "full-apply":
				base.Goal = fullApply
				add(figure.Absolute(base, values(c, r.planes, "time"), nil))
				base.Metric, base.Unit, base.Goal = "memory", "MB", memory
				add(figure.Absolute(base, values(c, r.planes, "memory"), nil))
			case "noop-pass":
				base.Goal = noopPass
				add(figure.Absolute(base, values(c, r.planes, "time"), nil))
			case "one-weight":
				base.Goal, base.ReferenceName = growth, "the same with 10 services"
				add(figure.Compare(base, values(c, r.planes, "time"), values(c+"-few", r.planes, "time")))
			}
		}
	}
	for _, f := range figures {
		if err := f.Print(w); err != nil {
			return err
		}
	}
	return nil
}
