// Package spec answers: what is wanted of this server? It turns the messages of proto/forum/v1 into checked values. Pure.
package spec

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	forumv1 "github.com/twotier/twotier/proto/forum/v1"
	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

// Defaults and bounds of the desired state, as proto/forum/v1/desired.proto documents them.
const (
	DefaultTitle          = "Forum"
	DefaultMaxUploadBytes = 16 << 20
	MaxUploadBytes        = 1 << 30
	DefaultLifetime       = 720 * time.Hour
	MinLifetime           = time.Minute
	MaxLifetime           = 8760 * time.Hour
)

// Want is what one server is to be. The zero value serves nothing.
type Want struct {
	Site *Site // nil when there is no site, or none for this server
}

// Site is the forum as one of its servers sees it.
type Site struct {
	Title          string
	Database       Database
	KeyFile        string        // with the session key
	Lifetime       time.Duration // of a login
	MaxUploadBytes int64
	Self           Server
	Origin         Server      // the server that takes uploads; may be Self
	Unattended     *Unattended // nil: the wizard waits
}

// IsOrigin reports whether this server takes the uploads.
func (s *Site) IsOrigin() bool { return s.Self.Node == s.Origin.Node }

// Database is where the database is and who we are there.
type Database struct {
	Network      string // tcp or unix
	Address      string // HOST:PORT, or the path of the socket
	Name         string
	User         string
	PasswordFile string // empty: no password
}

// Server is one machine that serves the forum.
type Server struct {
	Node      string
	Address   string // HOST:PORT
	FilesPath string // absolute
}

// Unattended is an installation without the wizard.
type Unattended struct {
	AdminName, AdminEmail, AdminPasswordFile string
}

// Parse checks all sites that are wanted (there may be one) and answers what is wanted of node.
func Parse(node string, sites []*forumv1.Site) (Want, []*commonv1.Violation) {
	if len(sites) == 0 {
		return Want{}, nil
	}
	c := &checker{at: "site/" + sites[0].GetName()}
	for _, s := range sites[1:] {
		c.violations = append(c.violations, &commonv1.Violation{
			Field:       "site/" + s.GetName(),
			Description: fmt.Sprintf("there is one site, and site/%s is it already", sites[0].GetName()),
		})
	}
	site := c.site(sites[0], node)
	if len(c.violations) > 0 {
		return Want{}, c.violations
	}
	return Want{Site: site}, nil
}

type checker struct {
	at         string // path of the object
	violations []*commonv1.Violation
}

func (c *checker) bad(field, format string, a ...any) {
	c.violations = append(c.violations, &commonv1.Violation{Field: c.at + "." + field, Description: fmt.Sprintf(format, a...)})
}

var objectName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

func (c *checker) site(m *forumv1.Site, node string) *Site {
	s := &Site{Title: m.GetTitle(), MaxUploadBytes: int64(min(m.GetMaxUploadBytes(), MaxUploadBytes+1)), Lifetime: DefaultLifetime}
	if !objectName.MatchString(m.GetName()) {
		c.bad("name", `want 1 to 63 lower-case letters, digits, "-", "_", ".", got %q`, m.GetName())
	}
	if s.Title == "" {
		s.Title = DefaultTitle
	}
	for _, p := range forum.CheckSiteTitle(s.Title) {
		c.bad("title", "%s", p.Text)
	}
	switch {
	case s.MaxUploadBytes == 0:
		s.MaxUploadBytes = DefaultMaxUploadBytes
	case s.MaxUploadBytes > MaxUploadBytes:
		c.bad("max_upload_bytes", "want 1 to %d, got %d", MaxUploadBytes, m.GetMaxUploadBytes())
	}
	s.Database = c.database(m.GetDatabase())
	s.KeyFile = c.file("session.key_file", m.GetSession().GetKeyFile())
	if d := m.GetSession().GetLifetime(); d != nil {
		s.Lifetime = d.AsDuration()
		if err := d.CheckValid(); err != nil || s.Lifetime < MinLifetime || s.Lifetime > MaxLifetime {
			c.bad("session.lifetime", "want 1m to 8760h, got %s", s.Lifetime)
		}
	}
	if u := m.GetUnattendedInstall(); u != nil {
		s.Unattended = &Unattended{u.GetAdminName(), u.GetAdminEmail(), c.file("unattended_install.admin_password_file", u.GetAdminPasswordFile())}
		// The password is in a file, which this pure room does not read: one that is long enough stands in for it.
		for _, p := range forum.CheckUser(u.GetAdminName(), u.GetAdminEmail(), strings.Repeat("x", forum.MinAdminPassword), forum.MinAdminPassword) {
			c.bad("unattended_install.admin_"+p.Field, "%s", p.Text)
		}
	}
	var here bool
	s.Self, s.Origin, here = c.servers(m.GetServers(), node)
	if !here {
		return nil
	}
	return s
}

func (c *checker) database(m *forumv1.Database) Database {
	d := Database{Network: "tcp", Address: m.GetAddress(), Name: m.GetName(), User: m.GetUser()}
	if p, ok := strings.CutPrefix(d.Address, "unix:"); ok {
		d.Network, d.Address = "unix", p
		if !cleanPath(p) {
			c.bad("database.address", "want unix: and an absolute, clean path, got %q", m.GetAddress())
		}
	} else if why := hostPort(d.Address); why != "" {
		c.bad("database.address", "want HOST:PORT or unix:PATH, got %q: %s", d.Address, why)
	}
	if n := len(d.Name); n < 1 || n > 64 || strings.ContainsAny(d.Name, "/\\.`\x00") {
		c.bad("database.name", "want 1 to 64 bytes without / \\ . `, got %q", d.Name)
	}
	if n := len(d.User); n < 1 || n > 80 {
		c.bad("database.user", "want 1 to 80 bytes, got %d", n)
	}
	if m.GetPasswordFile() != "" {
		d.PasswordFile = c.file("database.password_file", m.GetPasswordFile())
	} else if d.Network != "unix" {
		c.bad("database.password_file", "want the file with the password: only a unix socket may do without")
	}
	return d
}

func (c *checker) servers(ms []*forumv1.Server, node string) (self, origin Server, here bool) {
	if len(ms) == 0 {
		c.bad("servers", "want at least one")
		return self, origin, false
	}
	nodes, addresses, origins := map[string]int{}, map[string]int{}, 0
	for i, m := range ms {
		at := fmt.Sprintf("servers[%d]", i)
		s := Server{m.GetNode(), m.GetAddress(), m.GetFilesPath()}
		if s.Node == "" || len(s.Node) > 63 {
			c.bad(at+".node", "want 1 to 63 characters, got %d", len(s.Node))
		} else if j, ok := nodes[s.Node]; ok {
			c.bad(at+".node", "%s is servers[%d] already", s.Node, j)
		}
		if why := hostPort(s.Address); why != "" {
			c.bad(at+".address", "want HOST:PORT, got %q: %s", s.Address, why)
		} else if j, ok := addresses[s.Address]; ok {
			c.bad(at+".address", "%s is the address of servers[%d] already", s.Address, j)
		}
		if !cleanPath(s.FilesPath) || s.FilesPath == "/" {
			c.bad(at+".files_path", "want an absolute, clean path of a folder, got %q", s.FilesPath)
		}
		nodes[s.Node], addresses[s.Address] = i, i
		if m.GetUploadOrigin() {
			origin = s
			origins++
		}
		if s.Node == node {
			self, here = s, true
		}
	}
	if origins != 1 {
		c.bad("servers", "want exactly one with upload_origin, got %d", origins)
	}
	return self, origin, here
}

func (c *checker) file(field, p string) string {
	if !cleanPath(p) {
		c.bad(field, "want the absolute, clean path of a file, got %q", p)
	}
	return p
}

func cleanPath(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsRune(p, 0)
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$`)

// hostPort says what is wrong with an address, or nothing.
func hostPort(s string) string {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "no port"
	}
	if _, err := netip.ParseAddr(host); err != nil && !hostName.MatchString(host) {
		return "no host"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "the port is not 1 to 65535"
	}
	return ""
}
