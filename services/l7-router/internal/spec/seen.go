package spec

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

// Limits of what may be wanted of the statistics page.
const (
	// MaxStatsUsers is the most users of a statistics page.
	MaxStatsUsers = 64
	// MaxScope is the most names in the scope of a statistics page.
	MaxScope = 256
	// MaxSetting is the most bytes of a realm, of the page's URI or of a path.
	MaxSetting = 255
)

// Defaults of the statistics page, HAProxy's.
const (
	DefaultStatsURI   = "/haproxy?stats"
	DefaultStatsRealm = "HAProxy Statistics"
	// DefaultStatsUser is who may see it where nobody is named.
	DefaultStatsUser = "admin"
)

// StatsPage is the statistics page of a frontend; with an empty URI there is none.
type StatsPage struct {
	// URI is what the target of a request begins with to be for the page.
	URI, Realm string
	// Users may see it; none: DefaultStatsUser, with the password that the router has made.
	Users []StatsUser
	// Refresh is how often it loads itself again; 0: never.
	Refresh     time.Duration
	HideVersion bool
	// Scope holds the names that are shown; empty: all.
	Scope []string
}

// StatsUser is somebody who may see the page. Either Bcrypt or File is set.
type StatsUser struct {
	Name string
	// Bcrypt is the hash of the password, File is where it stands.
	Bcrypt, File string
	// Admin may change servers too.
	Admin bool
}

func (p *parser) statsPage(at string, m *routerv1.StatsPage) StatsPage {
	if m == nil {
		return StatsPage{}
	}
	s := StatsPage{
		URI: cmp.Or(m.GetUri(), DefaultStatsURI), Realm: cmp.Or(m.GetRealm(), DefaultStatsRealm),
		HideVersion: m.GetHideVersion(), Scope: slices.Clone(m.GetScope()),
		Refresh: p.duration(at+".refresh", m.GetRefresh(), 0, time.Second, time.Hour),
	}
	if !strings.HasPrefix(s.URI, "/") || !visible(s.URI) || strings.ContainsAny(s.URI, "#;\"<>") || len(s.URI) > MaxSetting {
		p.refuse(at+".uri", "want the start of a target without # and ; such as /haproxy?stats, got %q", m.GetUri())
	}
	for _, c := range []byte(s.Realm) {
		if c < ' ' || c > '~' || c == '"' || c == '\\' || len(s.Realm) > MaxSetting {
			p.refuse(at+".realm", "want at most %d ASCII characters without \" and \\, got %q", MaxSetting, m.GetRealm())
			break
		}
	}
	if len(s.Scope) > MaxScope {
		p.refuse(at+".scope", "want at most %d names, got %d", MaxScope, len(s.Scope))
	}
	if len(m.GetUsers()) > MaxStatsUsers {
		p.refuse(at+".users", "want at most %d users, got %d", MaxStatsUsers, len(m.GetUsers()))
	}
	for i, user := range m.GetUsers() {
		s.Users = append(s.Users, p.statsUser(fmt.Sprintf("%s.users[%d]", at, i), user, s.Users))
	}
	return s
}

func (p *parser) statsUser(at string, m *routerv1.StatsUser, before []StatsUser) StatsUser {
	u := StatsUser{Name: m.GetName(), Bcrypt: m.GetPasswordBcrypt(), File: m.GetPasswordFile(), Admin: m.GetAdmin()}
	if u.Name == "" || !visible(u.Name) || strings.Contains(u.Name, ":") || len(u.Name) > MaxName {
		p.refuse(at+".name", "want 1 to %d visible characters without a colon, got %q", MaxName, u.Name)
	}
	if slices.ContainsFunc(before, func(o StatsUser) bool { return o.Name == u.Name }) {
		p.refuse(at+".name", "there is another user %q of this page", u.Name)
	}
	switch {
	case (u.Bcrypt == "") == (u.File == ""):
		p.refuse(at, "want either password_bcrypt or password_file")
	case u.Bcrypt != "" && !bcryptHash(u.Bcrypt):
		p.refuse(at+".password_bcrypt", "want a bcrypt hash of cost 4 to 14, such as htpasswd -nbB makes it") // what was given is not repeated: it may be a password
	case u.File != "" && !absolute(u.File):
		p.refuse(at+".password_file", "want an absolute path, got %q", u.File)
	}
	return u
}

// bcryptHash reports whether s looks like a bcrypt hash that takes less than a second to compare.
func bcryptHash(s string) bool {
	if len(s) != 60 || s[0] != '$' || s[1] != '2' || !strings.ContainsRune("aby", rune(s[2])) || s[3] != '$' || s[6] != '$' {
		return false
	}
	for _, c := range []byte(s[7:]) {
		if !(c == '.' || c == '/' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z') {
			return false
		}
	}
	return s[4:6] >= "04" && s[4:6] <= "14"
}

func absolute(name string) bool {
	return path.IsAbs(name) && path.Clean(name) == name && visible(name) && len(name) <= MaxSetting
}
