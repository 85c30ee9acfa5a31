package plan_test

import (
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/forum-backend/internal/plan"
	"github.com/twotier/twotier/services/forum-backend/internal/spec"
)

func site() *spec.Site {
	return &spec.Site{
		Title:    "Forum",
		Database: spec.Database{Network: "tcp", Address: "172.16.0.44:3306", Name: "discuz", User: "discuz"},
		KeyFile:  "/key", Lifetime: time.Hour, MaxUploadBytes: 100,
		Self:   spec.Server{Node: "server1", Address: "172.16.0.88:80", FilesPath: "/web"},
		Origin: spec.Server{Node: "server2", Address: "172.16.0.99:80", FilesPath: "/data"},
	}
}

func have() plan.Have {
	s := site()
	secrets := plan.Secrets{Database: "d1", Key: "k1"}
	return plan.Have{
		Serving: s.Self.Address, Database: s.Database, KeyFile: s.KeyFile, Lifetime: s.Lifetime, Used: secrets, OnDisk: secrets,
		Title: s.Title, MaxUploadBytes: s.MaxUploadBytes, FilesPath: s.Self.FilesPath, Origin: s.Origin,
		Schema: 1, LatestSchema: 1, Installed: true,
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*spec.Site, *plan.Have)
		want   string
	}{
		"equal": {func(*spec.Site, *plan.Have) {}, ""},
		"start": {func(s *spec.Site, h *plan.Have) {
			*h = plan.Have{OnDisk: h.OnDisk, LatestSchema: 1}
			s.Unattended = &spec.Unattended{AdminName: "admin"}
		}, `take the session key from /key, logins last 1h0m0s
use database discuz at 172.16.0.44:3306 as discuz
set title "Forum", uploads to 100 bytes
serve on 172.16.0.88:80
read files under /web, pass uploads on to server2 at 172.16.0.99:80
ensure tables of version 1 in database discuz
ensure that the forum is installed, administrator admin`},
		"another address": {func(s *spec.Site, h *plan.Have) { s.Self.Address = "172.16.0.88:8080" },
			"stop serving on 172.16.0.88:80\nserve on 172.16.0.88:8080"},
		"another password": {func(s *spec.Site, h *plan.Have) { h.OnDisk.Database = "d2" },
			"use database discuz at 172.16.0.44:3306 as discuz\nensure tables of version 1 in database discuz"},
		"another key":    {func(s *spec.Site, h *plan.Have) { h.OnDisk.Key = "k2" }, "take the session key from /key, logins last 1h0m0s"},
		"becomes origin": {func(s *spec.Site, h *plan.Have) { s.Origin = s.Self }, "keep files under /web as the upload origin"},
		"another limit":  {func(s *spec.Site, h *plan.Have) { s.MaxUploadBytes = 7 }, `set title "Forum", uploads to 7 bytes`},
		"newer tables":   {func(s *spec.Site, h *plan.Have) { h.Schema = 2 }, ""},
		"wizard":         {func(s *spec.Site, h *plan.Have) { h.Installed = false }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, h := site(), have()
			c.change(s, &h)
			if got := lines(plan.Diff(spec.Want{Site: s}, h)); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
	if got := lines(plan.Diff(spec.Want{}, have())); got != "stop serving: the desired state has no site for this node" {
		t.Errorf("no site: got %q", got)
	}
	if got := lines(plan.Diff(spec.Want{}, plan.Have{LatestSchema: 1})); got != "" {
		t.Errorf("no site, nothing served: got %q", got)
	}
}

func lines(changes []plan.Change) string {
	var ls []string
	for _, c := range changes {
		ls = append(ls, c.String())
	}
	return strings.Join(ls, "\n")
}
