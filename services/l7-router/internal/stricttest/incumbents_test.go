package stricttest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// silence is how long an incumbent that neither answers nor closes is waited for: it waits for more. What is written down
// is given time.
func silence() time.Duration {
	if *update {
		return 300 * time.Millisecond
	}
	return 25 * time.Millisecond
}

// TestIncumbents asks HAProxy, nginx and Apache the same as the router, and writes who accepts what. The router's column is
// what the suite of the connection drivers asserts; those of the others are a report, renewed with -update.
func TestIncumbents(t *testing.T) {
	t.Parallel()
	rows := Requests()
	if len(rows) < 200 {
		t.Errorf("%d rows, want 200 at least", len(rows))
	}
	if n := len(Responses()); n < 40 {
		t.Errorf("%d rows of responses, want 40 at least", n)
	}
	kinds := []Kind{HAProxy, Nginx, Apache}
	verdicts := make([][]string, len(kinds))
	var group sync.WaitGroup
	for i, k := range kinds {
		origin := NewOrigin(t)
		address := Start(t, k, origin.Address())
		group.Go(func() {
			for _, row := range rows {
				verdict, err := ask(address, origin, row)
				if err != nil {
					t.Errorf("%s: %s: %v", k, row.Name, err)
				}
				verdicts[i] = append(verdicts[i], verdict)
			}
		})
	}
	group.Wait()
	var table strings.Builder
	fmt.Fprintln(&table, "# Who answers what, and how many requests reach the server behind: \"400 >0\". \"+1 torn\": what reached it is no\n# good request. \"waits\": neither answer nor end.")
	fmt.Fprintln(&table, "request\tclause\tl7-router\thaproxy\tnginx\tapache2")
	seen := map[string]bool{}
	for i, row := range rows {
		if seen[row.Name] {
			t.Errorf("two rows %q", row.Name)
		}
		seen[row.Name] = true
		reached := 0
		var answers []string
		for _, status := range row.Want {
			answers = append(answers, fmt.Sprint(status))
			if status == 200 {
				reached++
			}
		}
		fmt.Fprintf(&table, "%s\t%s\t%s >%d", row.Name, row.Clause, strings.Join(answers, " "), reached)
		for k := range kinds {
			fmt.Fprintf(&table, "\t%s", verdicts[k][i])
		}
		table.WriteString("\n")
	}
	report(t, "requests.tsv", table.String())
}

// ask sends a row to an incumbent and tells what came of it.
func ask(address string, origin *Origin, row Request) (string, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	go func() { _, _ = io.WriteString(c, row.Bytes) }() // it may close before it has read all
	in := bufio.NewReader(c)
	method := Method(row.Bytes)
	var answers []string
	for end := ""; end == ""; method = "GET" {
		_ = c.SetReadDeadline(time.Now().Add(silence()))
		r, err := http.ReadResponse(in, &http.Request{Method: method})
		var silent net.Error
		switch {
		case errors.As(err, &silent) && silent.Timeout():
			if end = "waits"; len(answers) > 0 {
				end = "open"
			}
		case err != nil:
			if end = "closes"; len(answers) > 0 {
				end = "closed"
			}
		case r.StatusCode >= 200:
			answers = append(answers, fmt.Sprint(r.StatusCode))
			_, _ = io.Copy(io.Discard, r.Body) // cut off: the next read says so
		}
		if end == "waits" || end == "closes" {
			answers = append(answers, end)
		}
	}
	_ = c.Close()
	// What it sends on to the server has been sent before it answers this.
	transport := &http.Transport{DisableKeepAlives: true}
	request, err := http.NewRequest("GET", "http://"+address+Fence, nil)
	if err != nil {
		return "", err
	}
	r, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	_ = r.Body.Close()
	reached, torn := 0, 0
	for _, r := range origin.Take() {
		switch {
		case strings.HasPrefix(r.Bytes, "GET "+Fence):
		case r.Whole:
			reached++
		default:
			torn++
		}
	}
	verdict := fmt.Sprintf("%s >%d", strings.Join(answers, " "), reached)
	if torn > 0 {
		verdict += fmt.Sprintf("+%d torn", torn)
	}
	return verdict, nil
}

// report writes a table with -update. Without it the first three columns have to be those of the file; the others hang on
// versions of programs, and what differs is only told.
func report(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		Golden(t, name, got)
		return
	}
	text, err := os.ReadFile(place(name))
	if err != nil {
		t.Fatal(err)
	}
	want, lines := strings.Split(string(text), "\n"), strings.Split(got, "\n")
	if len(want) != len(lines) {
		t.Fatalf("%s has %d lines, want %d: renew it with -update", name, len(want), len(lines))
	}
	for i, line := range lines {
		if own(line) != own(want[i]) {
			t.Errorf("%s, line %d: renew it with -update\ngot  %s\nwant %s", name, i+1, line, want[i])
		} else if line != want[i] {
			t.Logf("%s, line %d: an incumbent has changed\nnow  %s\nfile %s", name, i+1, line, want[i])
		}
	}
}

// own is what a line says of the router.
func own(line string) string {
	columns := strings.SplitN(line, "\t", 4)
	return strings.Join(columns[:min(3, len(columns))], "\t")
}
