package haproxy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/importing"
)

// balancing is what the lines of a backend say about the choice of a server.
type balancing struct {
	balance setting[routerv1.Balance]
	// by are the arguments of balance, hash what hash-type says.
	by, hash            setting[*routerv1.Hash]
	allBackups, persist setting[bool]
}

// balances are the algorithms that need no arguments.
var balances = map[string]routerv1.Balance{
	"roundrobin": routerv1.Balance_BALANCE_ROUNDROBIN, "static-rr": routerv1.Balance_BALANCE_STATIC_RR,
	"leastconn": routerv1.Balance_BALANCE_LEASTCONN, "first": routerv1.Balance_BALANCE_FIRST, "source": routerv1.Balance_BALANCE_SOURCE,
	"random": routerv1.Balance_BALANCE_RANDOM, "random(2)": routerv1.Balance_BALANCE_RANDOM,
}

// balance reads: balance ALGORITHM [arguments].
func (r *reader) balance(s *section, line *importing.Line, words []string) {
	word := strings.Join(words[1:min(2, len(words))], "")
	by := &routerv1.Hash{}
	b, known := balances[word]
	header, isHeader := strings.CutPrefix(word, "hdr(")
	switch {
	case known && len(words) == 2:
	case word == "uri":
		b = routerv1.Balance_BALANCE_URI
		for i := 2; i < len(words); i++ {
			value := strings.Join(words[min(i+1, len(words)):min(i+2, len(words))], "")
			switch words[i] {
			case "whole":
				by.UriWhole = true
			case "path-only":
				by.UriPathOnly = true
			case "len":
				i++
				if !number(value, &by.UriLen) {
					line.Unsupported("len %s: want a number", importing.Quote(value))
				}
			case "depth":
				i++
				if !number(value, &by.UriDepth) {
					line.Unsupported("depth %s: want a number", importing.Quote(value))
				}
			default:
				line.Unsupported("%s: the hash is made without it", importing.Quote(words[i]))
			}
		}
	case isHeader && strings.HasSuffix(header, ")"):
		b, by.Header = routerv1.Balance_BALANCE_HEADER, strings.TrimSuffix(header, ")")
		if len(words) > 2 {
			line.Unsupported("%s: the whole value counts", importing.Quote(strings.Join(words[2:], " ")))
		}
	case strings.HasPrefix(word, "random("):
		b = routerv1.Balance_BALANCE_RANDOM
		line.Assumed("two servers are drawn")
	default:
		line.Unsupported("balance %s: roundrobin, static-rr, leastconn, first, source, uri, hdr and random are taken; roundrobin it is",
			importing.Quote(strings.Join(words[1:], " ")))
		s.settings.balance = setting[routerv1.Balance]{}
		return
	}
	line.Taken("balance %s", word)
	s.settings.balance, s.settings.by = setting[routerv1.Balance]{b, line}, setting[*routerv1.Hash]{by, line}
}

var (
	hashTypes = map[string]routerv1.HashType{
		"map-based": routerv1.HashType_HASH_TYPE_MAP_BASED, "consistent": routerv1.HashType_HASH_TYPE_CONSISTENT,
	}
	hashFunctions = map[string]routerv1.HashFunction{
		"sdbm": routerv1.HashFunction_HASH_FUNCTION_SDBM, "djb2": routerv1.HashFunction_HASH_FUNCTION_DJB2,
		"wt6": routerv1.HashFunction_HASH_FUNCTION_WT6, "crc32": routerv1.HashFunction_HASH_FUNCTION_CRC32,
	}
)

// hashType reads: hash-type TYPE [FUNCTION [avalanche]].
func (r *reader) hashType(s *section, line *importing.Line, words []string) {
	h := &routerv1.Hash{}
	good := len(words) >= 2 && len(words) <= 4
	if good {
		h.Type, good = hashTypes[words[1]]
	}
	for i := 2; good && i < len(words); i++ {
		function, known := hashFunctions[words[i]]
		switch {
		case i == 2 && known:
			h.Function = function
		case i == len(words)-1 && words[i] == "avalanche":
			h.Avalanche = true
		default:
			good = false
		}
	}
	if !good {
		line.LeftOut("want map-based or consistent, and sdbm, djb2, wt6 or crc32, and avalanche; a map-based hash by sdbm it is")
		return
	}
	line.Taken("hashes of balance source, uri and hdr")
	s.settings.hash = setting[*routerv1.Hash]{h, line}
}

// chooses fills in how a backend chooses.
func (s *section) chooses(m *routerv1.Backend, parts *[]part, at string) {
	c := &s.settings.balancing
	m.AllBackups, m.Persist = c.allBackups.value, c.persist.value
	m.Balance = routerv1.Balance_BALANCE_ROUNDROBIN
	if c.balance.line == nil {
		return
	}
	m.Balance = c.balance.value
	switch m.Balance {
	case routerv1.Balance_BALANCE_SOURCE, routerv1.Balance_BALANCE_URI, routerv1.Balance_BALANCE_HEADER:
		m.Hash = proto.Clone(c.by.value).(*routerv1.Hash)
		if c.hash.line != nil {
			m.Hash.Type, m.Hash.Function, m.Hash.Avalanche = c.hash.value.GetType(), c.hash.value.GetFunction(), c.hash.value.GetAvalanche()
		}
		if proto.Size(m.GetHash()) == 0 {
			m.Hash = nil
		}
	}
	*parts = append(*parts, part{field: at + ".hash", line: c.balance.line, so: "roundrobin it is", drop: func() { c.balance = setting[routerv1.Balance]{} }})
}

// switches are options that a backend has or has not.
func (r *reader) switches(s *section, line *importing.Line, name string, on bool) bool {
	var which *setting[bool]
	words := ""
	switch name {
	case "allbackups":
		which, words = &s.settings.allBackups, "every backup takes its share when nobody else can"
	case "persist":
		which, words = &s.settings.persist, "a cookie that names a server that is down counts"
	default:
		return false
	}
	if s.kind == "frontend" {
		line.Ignored("it has no effect in a section frontend")
		return true
	}
	*which = setting[bool]{on, line}
	if on {
		line.Taken("%s", words)
	} else {
		line.Taken("not so: %s", words)
	}
	return true
}

// cookie reads: cookie NAME [rewrite | insert | prefix] [options].
func (r *reader) cookie(s *section, line *importing.Line, words []string) {
	if len(words) < 2 || slices.Contains(words[2:], "dynamic") {
		line.LeftOut("want a name, and server lines with the word cookie, because values made of a secret (dynamic) are not taken; clients are not kept on a server")
		return
	}
	c := &routerv1.Cookie{Name: words[1], Mode: routerv1.CookieMode_COOKIE_MODE_PASSIVE}
	line.Taken("persistence by cookie %s", importing.Quote(words[1]))
	for i := 2; i < len(words); i++ {
		word := words[i]
		value := strings.Join(words[min(i+1, len(words)):min(i+2, len(words))], "")
		switch word {
		case "insert":
			c.Mode = routerv1.CookieMode_COOKIE_MODE_UNSPECIFIED
		case "prefix":
			c.Mode = routerv1.CookieMode_COOKIE_MODE_PREFIX
		case "rewrite":
			c.Mode = routerv1.CookieMode_COOKIE_MODE_REWRITE
		case "nocache":
			c.Nocache = true
		case "indirect":
			c.Indirect = true
		case "httponly":
			c.Httponly = true
		case "secure":
			c.Secure = true
		case "preserve":
			c.Preserve = true
		case "postonly":
			c.Postonly = true
		case "domain":
			i++
			c.Domains = append(c.Domains, value)
		case "attr":
			i++
			c.Attributes = append(c.Attributes, value)
		case "maxidle", "maxlife":
			i++
			age, good := seconds(value)
			switch {
			case !good:
				line.Unsupported("%s %s: not a good value; the cookie is made without it", word, importing.Quote(value))
			case word == "maxidle":
				c.Maxidle = durationpb.New(age)
			default:
				c.Maxlife = durationpb.New(age)
			}
		default:
			line.Unsupported("%s: the cookie is made without it", importing.Quote(word))
		}
	}
	if c.GetMode() != routerv1.CookieMode_COOKIE_MODE_UNSPECIFIED && c.GetNocache() {
		c.Nocache = false
		line.Unsupported("nocache: the router marks only responses in which it inserts the cookie itself")
	}
	s.settings.cookie = setting[*routerv1.Cookie]{c, line}
}

// seconds reads a time whose unit is the second when it has none.
func seconds(text string) (time.Duration, bool) {
	if text != "" && strings.Trim(text, "0123456789") == "" {
		text += "s"
	}
	d, good := duration(text)
	return d, good && d >= time.Second
}

// wholeSeconds rounds up, as HAProxy does with slowstart.
func wholeSeconds(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New((d + time.Second - 1).Truncate(time.Second))
}

// limits fills in what a server line says about requests that wait.
func (s *section) limits(m *routerv1.Server, one *server, parts *[]part, field string) {
	m.Maxconn, m.Maxqueue, m.SlowStart = one.maxconn, one.maxqueue, wholeSeconds(one.slowstart)
	if m.Maxconn == 0 {
		m.Maxqueue = 0
	}
	for name, drop := range map[string]func(){
		"maxconn": func() { one.maxconn = 0 }, "maxqueue": func() { one.maxqueue = 0 }, "slow_start": func() { one.slowstart = 0 },
	} {
		*parts = append(*parts, part{field: fmt.Sprintf("%s.%s", field, name), line: one.line, so: "it is left out", drop: drop})
	}
}
