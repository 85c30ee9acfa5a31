package keepalived

import (
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/importing"
	"github.com/twotier/twotier/services/internal/importing/blocks"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// defaults are what virtual and real servers hand down to checkers.
type defaults struct {
	loop, timeout time.Duration
	pause         *time.Duration // delay_before_retry
	retry         *uint32
	virtualhost   string
}

// take takes a statement that is handed down; false: it is none.
func (d *defaults) take(s *blocks.Statement) bool {
	switch canonical(s.Word(0)) {
	case "delay_loop":
		timed(s, true, func(t time.Duration) { d.loop = t })
	case "connect_timeout":
		timed(s, true, func(t time.Duration) { d.timeout = t })
	case "delay_before_retry":
		timed(s, true, func(t time.Duration) { d.pause = &t })
	case "retry":
		number(s, func(n uint32) { d.retry = &n })
	case "virtualhost":
		d.virtualhost = s.Word(1)
		s.Line.Taken("host %s", importing.Quote(s.Word(1)))
	default:
		return false
	}
	return true
}

// checker is a checker block.
type checker struct {
	block   *blocks.Statement
	message *directorv1.Check
}

// kinds are the checkers that cannot be said, and what to do instead.
var kinds = map[string]string{
	"SMTP_CHECK": "mail servers are checked with tcp, or with a program (exec) that speaks SMTP",
	"BFD_CHECK":  "there is no BFD; a check every 100ms notices within half a second",
	"FILE_CHECK": "a program (exec) can look into the file: [\"/usr/bin/test\", \"-e\", FILE]; weights are set with Apply",
}

// read makes a check of a checker; nil: it cannot be said.
func read(s *blocks.Statement, d defaults) *checker {
	if why, cannot := kinds[s.Word(0)]; cannot {
		s.Leave("%s", why)
		return nil
	}
	c := &checker{block: s, message: &directorv1.Check{}}
	retry, pause := uint32(1), time.Second // keepalived's defaults
	switch s.Word(0) {
	case "TCP_CHECK":
		c.message.Kind = &directorv1.Check_Tcp{Tcp: &directorv1.TcpCheck{}}
	case "PING_CHECK":
		c.message.Kind = &directorv1.Check_Icmp{Icmp: &directorv1.IcmpCheck{}}
	case "UDP_CHECK":
		c.message.Kind = &directorv1.Check_Udp{Udp: &directorv1.UdpCheck{}}
	case "DNS_CHECK":
		retry, pause = 3, d.loop
		c.message.Kind = &directorv1.Check_Dns{Dns: &directorv1.DnsCheck{}}
	case "MISC_CHECK":
		retry = 0
		c.message.Kind = &directorv1.Check_Exec{Exec: &directorv1.ExecCheck{}}
	case "HTTP_GET", "SSL_GET":
		pause = 3 * time.Second
		http := &directorv1.HttpCheck{}
		if s.Word(0) == "SSL_GET" {
			http.Tls = &directorv1.CheckTls{AnyCertificate: true}
			s.Line.Assumed("any certificate is taken, as keepalived does; tls.ca_file makes the check look at it")
		}
		c.message.Kind = &directorv1.Check_Http{Http: http}
	}
	s.Line.Taken("check of the service")
	for _, child := range s.Children {
		if !c.option(child) && !d.take(child) {
			unsaid(child)
		}
	}
	if d.retry != nil {
		retry = *d.retry
	}
	if d.pause != nil {
		pause = *d.pause
	}
	c.rhythm(d, retry, pause)
	if http := c.message.GetHttp(); http != nil {
		if http.GetHost() == "" {
			http.Host = d.virtualhost
		}
		if len(http.GetStatuses()) == 0 {
			s.Line.Assumed("the statuses 200 to 399 are good")
		}
	}
	if exec := c.message.GetExec(); exec != nil && len(exec.GetArgv()) == 0 {
		s.Leave("it names no program by its absolute path")
		return nil
	}
	return c
}

// rhythm sets pauses and counts. keepalived tries again retry times after the first failure, and comes back after one success.
func (c *checker) rhythm(d defaults, retry uint32, pause time.Duration) {
	interval := max(d.loop, 100*time.Millisecond)
	c.message.Interval = durationpb.New(interval)
	c.message.FastInterval = durationpb.New(min(max(pause, 10*time.Millisecond), interval))
	c.message.Timeout = durationpb.New(min(max(d.timeout, 10*time.Millisecond), time.Minute))
	c.message.Rise, c.message.Fall = 1, min(retry, 99)+1
}

// option takes a statement of the checker's own; false: it is none.
func (c *checker) option(s *blocks.Statement) bool {
	value, line := s.Word(1), s.Line
	switch s.Word(0) {
	case "connect_port":
		number(s, func(n uint32) { c.message.Port = n })
		return true
	case "connect_ip", "bindto", "bind_if", "bind_port", "fwmark":
		line.LeftOut("a check goes from the node to the real server itself")
		return true
	}
	switch kind := c.message.GetKind().(type) {
	case *directorv1.Check_Http:
		return c.http(s, kind.Http)
	case *directorv1.Check_Udp:
		switch s.Word(0) {
		case "payload", "require_reply":
			bytes, err := hex.DecodeString(strings.ReplaceAll(strings.Join(s.Words[1:], ""), " ", ""))
			switch {
			case err != nil || len(bytes) > spec.MaxDatagram:
				line.LeftOut("want hexadecimal digits, %d bytes at most and none of them X", spec.MaxDatagram)
			case s.Word(0) == "payload":
				kind.Udp.Payload = bytes
				line.Taken("udp.payload")
			case len(bytes) == 0:
				line.LeftOut("an answer of any kind cannot be asked for: name its beginning")
			default:
				kind.Udp.Expect = bytes
				line.Taken("udp.expect")
			}
			return true
		case "min_reply_length", "max_reply_length":
			line.LeftOut("the length of an answer is not looked at, only its beginning (udp.expect)")
			return true
		}
	case *directorv1.Check_Dns:
		switch s.Word(0) {
		case "type":
			kind.Dns.Type = value
			line.Taken("dns.type %s", importing.Quote(value))
			return true
		case "name":
			kind.Dns.Name = value
			line.Taken("dns.name %s", importing.Quote(value))
			return true
		}
	case *directorv1.Check_Exec:
		return c.program(s, kind.Exec)
	}
	return false
}

// http takes a statement of HTTP_GET and SSL_GET.
func (c *checker) http(s *blocks.Statement, m *directorv1.HttpCheck) bool {
	switch s.Word(0) {
	case "enable_sni":
		s.Line.Ignored("the name is always asked for when there is one")
	case "url":
		if m.GetPath() != "" {
			s.Leave("a check asks for one page: the first is taken")
			return true
		}
		m.Path = "/"
		s.Line.Taken("http")
		for _, child := range s.Children {
			c.url(child, m)
		}
	default:
		return false
	}
	return true
}

// url takes a statement of url.
func (c *checker) url(s *blocks.Statement, m *directorv1.HttpCheck) {
	line, value := s.Line, s.Word(1)
	switch s.Word(0) {
	case "path":
		m.Path = value
		line.Taken("http.path %s", importing.Quote(value))
	case "virtualhost":
		m.Host = value
		line.Taken("http.host %s", importing.Quote(value))
	case "status_code":
		for _, word := range s.Words[1:] {
			from, to, isRange := strings.Cut(word, "-")
			first, err := strconv.ParseUint(from, 10, 10)
			last := first
			if isRange && err == nil {
				last, err = strconv.ParseUint(to, 10, 10)
			}
			if err != nil || last < first || len(m.GetStatuses())+int(last-first) >= spec.MaxStatuses {
				m.Statuses = nil
				line.LeftOut("want %d statuses at most; 200 to 399 are good", spec.MaxStatuses)
				return
			}
			for n := first; n <= last; n++ {
				m.Statuses = append(m.Statuses, uint32(n))
			}
		}
		line.Taken("http.statuses")
	case "digest":
		line.LeftOut("there is no digest of the body: http.body names what it must contain")
	case "regex", "regex_no_match", "regex_options", "regex_stack", "regex_min_offset", "regex_max_offset":
		line.LeftOut("there is no pattern: http.body names what the body must contain")
	default:
		unsaid(s)
	}
}

// program takes a statement of MISC_CHECK.
func (c *checker) program(s *blocks.Statement, m *directorv1.ExecCheck) bool {
	switch s.Word(0) {
	case "misc_path":
		argv := strings.Fields(strings.Join(s.Words[1:], " "))
		if strings.ContainsAny(strings.Join(argv, " "), "'\"\\|&;<>$`*?") {
			s.Line.LeftOut("there is no shell: name a program and its arguments in exec.argv, or a script file")
			return true
		}
		m.Argv = argv
		s.Line.Taken("exec.argv")
	case "user":
		m.User = s.Word(1)
		s.Line.Taken("exec.user %s", importing.Quote(s.Word(1)))
	case "misc_timeout":
		timed(s, true, func(time.Duration) {})
		s.Line.Assumed("it ends with the timeout of the check, connect_timeout")
	case "misc_dynamic":
		s.Line.LeftOut("the exit code tells the living from the dead alone; weights are set with Apply")
	default:
		return false
	}
	return true
}
