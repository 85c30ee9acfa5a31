package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// report is the end of a run of wrk in words that are easy to read back.
const report = `done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("\nRESULT %d %d %f %d\n", summary.requests, summary.duration, latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
`

// result of a burst.
type result struct {
	requests float64
	rate     float64 // a second
	p99      float64 // in microseconds
	failed   int
}

// load sends requests for a while over that many connections.
func (b *bench) load(address string, connections int, burst time.Duration, header string) (result, error) {
	url := address
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	script := filepath.Join(b.folder, "report.lua")
	text := report
	if header != "" {
		field, value, _ := strings.Cut(header, ": ")
		text += fmt.Sprintf("wrk.headers[%q] = %q\n", field, value)
	}
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		return result{}, err
	}
	// wrk counts whole seconds; a shorter burst is cut off by a signal, at which it reports all the same.
	command := exec.Command("taskset", "-c", loadCore, b.wrk, "-t1", fmt.Sprintf("-c%d", connections), "-d60s", "-s", script, url+"/")
	var out strings.Builder
	command.Stdout, command.Stderr = &out, &out
	if err := command.Start(); err != nil {
		return result{}, err
	}
	time.Sleep(burst)
	_ = command.Process.Signal(os.Interrupt) // if it has ended, its words say why
	if err := command.Wait(); err != nil {
		return result{}, fmt.Errorf("wrk: %w: %s", err, out.String())
	}
	_, line, found := strings.Cut(out.String(), "\nRESULT ")
	var requests, duration, p99 float64
	var errors int
	if _, err := fmt.Sscan(line, &requests, &duration, &p99, &errors); !found || err != nil || requests == 0 {
		return result{}, fmt.Errorf("wrk: no result in %q", out.String())
	}
	if errors > 0 {
		fmt.Fprintf(os.Stderr, "bench-router: %d requests to %s failed\n", errors, address)
	}
	return result{requests: requests, rate: requests / duration * 1e6, p99: p99, failed: errors}, nil
}

// fetch takes one large body and counts it.
func fetch(address, path string) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n", path); err != nil {
		return err
	}
	in := bufio.NewReader(c)
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	var n int64
	for err == nil {
		var read int
		read, err = r.Body.Read(buf)
		n += int64(read)
	}
	if err != io.EOF || r.StatusCode != 200 || n != largeBody {
		return fmt.Errorf("%d: %d bytes: %w", r.StatusCode, n, err)
	}
	return nil
}

// ask sends one GET with a persistence cookie.
func ask(c net.Conn, in *bufio.Reader, cookie string) (string, error) {
	_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // the read says it
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: bench\r\nCookie: SRV=%s\r\n\r\n", cookie); err != nil {
		return "", err
	}
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(r.Body)
	return string(body), err
}
