package spec

import (
	"path/filepath"
	"strings"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

// CookieMode is whose cookie it is that keeps a client on a server.
type CookieMode uint8

// The modes (HAProxy: cookie).
const (
	CookieInsert  CookieMode = iota // the router's own
	CookiePrefix                    // the application's; the router puts its value before that
	CookieRewrite                   // one that the server sets; the router replaces the value
	CookiePassive                   // one that the server sets as it is wanted
)

const (
	// MaxCookieAge is the longest time that a cookie counts.
	MaxCookieAge = 10 * 365 * 24 * time.Hour
	// MaxAttributes is the most domains, and the most attributes, of a cookie.
	MaxAttributes = 8
	// MaxAttribute is the most bytes of one.
	MaxAttribute = 256
)

// Cookie is persistence by a cookie.
type Cookie struct {
	// Name of the cookie; empty: no persistence.
	Name                                string
	Mode                                CookieMode
	NoCache, Indirect, HTTPOnly, Secure bool
	// Preserve: one that the server sets goes through. PostOnly: it is inserted in responses to POST only.
	Preserve, PostOnly bool
	// MaxIdle and MaxLife are how long it counts after the last and the first visit; 0: as long as the browser keeps it.
	MaxIdle, MaxLife time.Duration
	// Domain and Attributes go behind it, each with "; " before it.
	Domain, Attributes string
	// KeyFile holds the keys that values are sealed with; empty: they are plain.
	KeyFile string
}

// Dated reports whether dates stand in the cookie.
func (c *Cookie) Dated() bool { return c.MaxIdle > 0 || c.MaxLife > 0 }

var cookieModes = map[routerv1.CookieMode]CookieMode{
	routerv1.CookieMode_COOKIE_MODE_UNSPECIFIED: CookieInsert,
	routerv1.CookieMode_COOKIE_MODE_INSERT:      CookieInsert,
	routerv1.CookieMode_COOKIE_MODE_PREFIX:      CookiePrefix,
	routerv1.CookieMode_COOKIE_MODE_REWRITE:     CookieRewrite,
	routerv1.CookieMode_COOKIE_MODE_PASSIVE:     CookiePassive,
}

func (p *parser) cookie(path string, m *routerv1.Cookie) Cookie {
	if m == nil {
		return Cookie{}
	}
	if !token(m.GetName()) || len(m.GetName()) > MaxName {
		p.refuse(path+".name", "want a cookie name of 1 to %d characters, such as webserver, got %q", MaxName, m.GetName())
	}
	c := Cookie{
		Name: m.GetName(), NoCache: m.GetNocache(), Indirect: m.GetIndirect(), HTTPOnly: m.GetHttponly(), Secure: m.GetSecure(),
		Preserve: m.GetPreserve(), PostOnly: m.GetPostonly(), KeyFile: m.GetKeyFile(),
	}
	known := false
	if c.Mode, known = cookieModes[m.GetMode()]; !known {
		p.refuse(path+".mode", "not a known mode: %v", m.GetMode())
	}
	if m.GetMaxidle() != nil {
		c.MaxIdle = p.duration(path+".maxidle", m.GetMaxidle(), 0, time.Second, MaxCookieAge)
	}
	if m.GetMaxlife() != nil {
		c.MaxLife = p.duration(path+".maxlife", m.GetMaxlife(), 0, time.Second, MaxCookieAge)
	}
	if c.Mode != CookieInsert {
		for field, set := range map[string]bool{
			"maxidle": m.GetMaxidle() != nil, "maxlife": m.GetMaxlife() != nil, "postonly": c.PostOnly, "nocache": c.NoCache,
			"httponly": c.HTTPOnly, "secure": c.Secure, "domains": len(m.GetDomains()) > 0, "attributes": len(m.GetAttributes()) > 0,
			"key_file": c.KeyFile != "",
		} {
			if set {
				p.refuse(path+"."+field, "it needs the mode insert: only then the router makes the cookie")
			}
		}
		if c.Preserve && !c.Indirect {
			p.refuse(path+".preserve", "it needs the mode insert, or indirect")
		}
		if c.Mode == CookieRewrite && c.Indirect {
			p.refuse(path+".indirect", "not together with the mode rewrite")
		}
	}
	if c.KeyFile != "" && !filepath.IsAbs(c.KeyFile) {
		p.refuse(path+".key_file", "want an absolute path, got %q", c.KeyFile)
	}
	c.Domain = p.attributes(path+".domains", m.GetDomains(), "; domain=")
	c.Attributes = p.attributes(path+".attributes", m.GetAttributes(), "; ")
	return c
}

// attributes joins what goes behind a cookie (RFC 6265 section 4.1.1, av-octet).
func (p *parser) attributes(path string, values []string, before string) string {
	if len(values) > MaxAttributes {
		p.refuse(path, "want at most %d, got %d", MaxAttributes, len(values))
	}
	all := ""
	for _, v := range values {
		if v == "" || len(v) > MaxAttribute || strings.ContainsRune(v, ';') || !visible(strings.ReplaceAll(v, " ", "")) {
			p.refuse(path, "want 1 to %d printable characters without ; in each, got %q", MaxAttribute, v)
		}
		all += before + v
	}
	return all
}
