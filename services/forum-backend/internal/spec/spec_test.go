package spec_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	forumv1 "github.com/twotier/twotier/proto/forum/v1"
	"github.com/twotier/twotier/services/forum-backend/internal/spec"
)

func good() *forumv1.Site {
	return &forumv1.Site{
		Name:     "forum",
		Database: &forumv1.Database{Address: "172.16.0.44:3306", Name: "discuz", User: "discuz", PasswordFile: "/run/secrets/db"},
		Session:  &forumv1.Session{KeyFile: "/run/secrets/key"},
		Servers: []*forumv1.Server{
			{Node: "server1", Address: "172.16.0.88:80", FilesPath: "/web/upload"},
			{Node: "server2", Address: "172.16.0.99:80", FilesPath: "/data/upload", UploadOrigin: true},
		},
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	want := &spec.Site{
		Title:          "Forum",
		Database:       spec.Database{Network: "tcp", Address: "172.16.0.44:3306", Name: "discuz", User: "discuz", PasswordFile: "/run/secrets/db"},
		KeyFile:        "/run/secrets/key",
		Lifetime:       720 * time.Hour,
		MaxUploadBytes: 16 << 20,
		Self:           spec.Server{Node: "server1", Address: "172.16.0.88:80", FilesPath: "/web/upload"},
		Origin:         spec.Server{Node: "server2", Address: "172.16.0.99:80", FilesPath: "/data/upload"},
	}
	got, violations := spec.Parse("server1", []*forumv1.Site{good()})
	if len(violations) != 0 || !reflect.DeepEqual(got.Site, want) {
		t.Errorf("got %+v %v, want %+v", got.Site, violations, want)
	}
	if got.Site.IsOrigin() {
		t.Error("server1 is the origin, want server2")
	}
	if got, violations := spec.Parse("elsewhere", []*forumv1.Site{good()}); got.Site != nil || violations != nil {
		t.Errorf("a node that is not in the site: got %+v %v, want nothing to serve", got.Site, violations)
	}
	if got, violations := spec.Parse("server1", nil); got.Site != nil || violations != nil {
		t.Errorf("no site: got %+v %v, want nothing to serve", got.Site, violations)
	}
}

func TestParseViolations(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*forumv1.Site)
		want   string // the fields that are wrong
	}{
		"nothing at all": {func(s *forumv1.Site) { proto.Reset(s) },
			"site/.name site/.database.address site/.database.name site/.database.user site/.database.password_file site/.session.key_file site/.servers"},
		"name":                 {func(s *forumv1.Site) { s.Name = "Forum/x" }, "site/Forum/x.name"},
		"title too long":       {func(s *forumv1.Site) { s.Title = strings.Repeat("论", 81) }, "site/forum.title"},
		"upload too large":     {func(s *forumv1.Site) { s.MaxUploadBytes = 1<<30 + 1 }, "site/forum.max_upload_bytes"},
		"upload overflow":      {func(s *forumv1.Site) { s.MaxUploadBytes = 1 << 63 }, "site/forum.max_upload_bytes"},
		"database no port":     {func(s *forumv1.Site) { s.Database.Address = "db" }, "site/forum.database.address"},
		"database port 0":      {func(s *forumv1.Site) { s.Database.Address = "db:0" }, "site/forum.database.address"},
		"socket relative":      {func(s *forumv1.Site) { s.Database.Address = "unix:run/x" }, "site/forum.database.address"},
		"socket, no password":  {func(s *forumv1.Site) { s.Database.Address, s.Database.PasswordFile = "unix:/run/x", "" }, ""},
		"tcp, no password":     {func(s *forumv1.Site) { s.Database.PasswordFile = "" }, "site/forum.database.password_file"},
		"database name":        {func(s *forumv1.Site) { s.Database.Name = "a/b" }, "site/forum.database.name"},
		"lifetime too short":   {func(s *forumv1.Site) { s.Session.Lifetime = durationpb.New(time.Second) }, "site/forum.session.lifetime"},
		"lifetime too long":    {func(s *forumv1.Site) { s.Session.Lifetime = durationpb.New(8761 * time.Hour) }, "site/forum.session.lifetime"},
		"key file relative":    {func(s *forumv1.Site) { s.Session.KeyFile = "key" }, "site/forum.session.key_file"},
		"two origins":          {func(s *forumv1.Site) { s.Servers[0].UploadOrigin = true }, "site/forum.servers"},
		"no origin":            {func(s *forumv1.Site) { s.Servers[1].UploadOrigin = false }, "site/forum.servers"},
		"node twice":           {func(s *forumv1.Site) { s.Servers[1].Node = "server1" }, "site/forum.servers[1].node"},
		"address twice":        {func(s *forumv1.Site) { s.Servers[1].Address = "172.16.0.88:80" }, "site/forum.servers[1].address"},
		"address without host": {func(s *forumv1.Site) { s.Servers[0].Address = ":80" }, "site/forum.servers[0].address"},
		"files path dots":      {func(s *forumv1.Site) { s.Servers[0].FilesPath = "/data/../etc" }, "site/forum.servers[0].files_path"},
		"files path root":      {func(s *forumv1.Site) { s.Servers[0].FilesPath = "/" }, "site/forum.servers[0].files_path"},
		"unattended": {func(s *forumv1.Site) { s.UnattendedInstall = &forumv1.UnattendedInstall{} },
			"site/forum.unattended_install.admin_password_file site/forum.unattended_install.admin_name site/forum.unattended_install.admin_email"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := good()
			c.change(m)
			_, violations := spec.Parse("server1", []*forumv1.Site{m})
			var fields []string
			for _, v := range violations {
				fields = append(fields, v.GetField())
			}
			if got := strings.Join(fields, " "); got != c.want {
				t.Errorf("got %q, want %q (%v)", got, c.want, violations)
			}
		})
	}
	other := good()
	other.Name = "other"
	if _, violations := spec.Parse("server1", []*forumv1.Site{good(), other}); len(violations) != 1 || violations[0].GetField() != "site/other" {
		t.Errorf("two sites: got %v, want one violation for site/other", violations)
	}
}
