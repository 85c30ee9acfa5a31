package spec

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

// Limits of what may be wanted of the statistics page and of the log.
const (
	// MaxStatsUsers is the most users of a statistics page.
	MaxStatsUsers = 64
	// MaxScope is the most names in the scope of a statistics page.
	MaxScope = 256
	// MaxSample is the largest distance between logged requests.
	MaxSample = 1_000_000
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

// LogKind is where a log goes.
type LogKind uint8

// The kinds of target.
const (
	LogNone LogKind = iota
	LogStdout
	LogFile
	LogUDP
	LogUnix
)

// AccessLog is where and how the requests of a frontend are logged.
type AccessLog struct {
	Kind LogKind
	// Target is a path or HOST:PORT.
	Target string
	JSON   bool
	// Sample: one request in so many.
	Sample    int
	HideQuery bool
	// Facility is the number of syslog's facility (RFC 5424, section 6.2.1).
	Facility int
}

// facilities are syslog's words (RFC 5424, section 6.2.1; HAProxy: log).
var facilities = []string{
	"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "auth2", "ftp", "ntp", "audit", "alert", "cron2",
	"local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
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

func (p *parser) accessLog(at string, m *routerv1.AccessLog) AccessLog {
	if m == nil {
		return AccessLog{}
	}
	l := AccessLog{
		HideQuery: m.GetHideQuery(), Sample: p.number(at+".sample", m.GetSample(), 1, MaxSample),
		Facility: slices.Index(facilities, cmp.Or(m.GetFacility(), "local0")),
	}
	switch kind, rest, _ := strings.Cut(m.GetTarget(), ":"); {
	case m.GetTarget() == "stdout":
		l.Kind = LogStdout
	case kind == "file" && absolute(rest):
		l.Kind, l.Target = LogFile, rest
	case kind == "unix" && absolute(rest) && len(rest) <= 107: // sun_path of unix(7)
		l.Kind, l.Target = LogUnix, rest
	case kind == "udp":
		address, err := netip.ParseAddrPort(rest)
		if err != nil || address.Port() == 0 {
			p.refuse(at+".target", "want udp: and HOST:PORT with an IP address, got %q", m.GetTarget())
		}
		l.Kind, l.Target = LogUDP, address.String()
	default:
		p.refuse(at+".target", "want stdout, file:/PATH, udp:HOST:PORT or unix:/PATH, got %q", m.GetTarget())
	}
	switch m.GetFormat() {
	case routerv1.LogFormat_LOG_FORMAT_UNSPECIFIED, routerv1.LogFormat_LOG_FORMAT_HTTPLOG:
	case routerv1.LogFormat_LOG_FORMAT_JSON:
		l.JSON = true
	default:
		p.refuse(at+".format", "not a known format: %v", m.GetFormat())
	}
	if l.Facility < 0 {
		p.refuse(at+".facility", "want a facility of syslog, such as local0, got %q", m.GetFacility())
	}
	return l
}
