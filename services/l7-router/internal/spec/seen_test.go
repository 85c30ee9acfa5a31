package spec

import (
	"reflect"
	"strings"
	"testing"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

const someHash = "$2y$05$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234"

func TestStatsPage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		in    *routerv1.StatsPage
		want  StatsPage
		field string
	}{
		{"none", nil, StatsPage{}, ""},
		{"defaults", &routerv1.StatsPage{}, StatsPage{URI: "/haproxy?stats", Realm: "HAProxy Statistics"}, ""},
		{"all", &routerv1.StatsPage{
			Uri: "/s", Realm: "R", Refresh: durationpb.New(time.Minute), HideVersion: true, Scope: []string{"web"},
			Users: []*routerv1.StatsUser{{Name: "a", PasswordBcrypt: someHash, Admin: true}, {Name: "b", PasswordFile: "/etc/p"}},
		}, StatsPage{
			URI: "/s", Realm: "R", Refresh: time.Minute, HideVersion: true, Scope: []string{"web"},
			Users: []StatsUser{{Name: "a", Bcrypt: someHash, Admin: true}, {Name: "b", File: "/etc/p"}},
		}, ""},
		{"relative", &routerv1.StatsPage{Uri: "stats"}, StatsPage{}, ".uri"},
		{"suffix in the URI", &routerv1.StatsPage{Uri: "/s;csv"}, StatsPage{}, ".uri"},
		{"header in the realm", &routerv1.StatsPage{Realm: "a\r\nb"}, StatsPage{}, ".realm"},
		{"quote in the realm", &routerv1.StatsPage{Realm: `a"b`}, StatsPage{}, ".realm"},
		{"too fast", &routerv1.StatsPage{Refresh: durationpb.New(time.Millisecond)}, StatsPage{}, ".refresh"},
		{"no name", &routerv1.StatsPage{Users: []*routerv1.StatsUser{{PasswordFile: "/p"}}}, StatsPage{}, ".users[0].name"},
		{"colon", &routerv1.StatsPage{Users: []*routerv1.StatsUser{{Name: "a:b", PasswordFile: "/p"}}}, StatsPage{}, ".users[0].name"},
		{"twice", &routerv1.StatsPage{Users: []*routerv1.StatsUser{{Name: "a", PasswordFile: "/p"}, {Name: "a", PasswordFile: "/p"}}}, StatsPage{}, ".users[1].name"},
		{"no password", &routerv1.StatsPage{Users: []*routerv1.StatsUser{{Name: "a"}}}, StatsPage{}, ".users[0]"},
		{"both", &routerv1.StatsPage{Users: []*routerv1.StatsUser{{Name: "a", PasswordFile: "/p", PasswordBcrypt: someHash}}}, StatsPage{}, ".users[0]"},
		{"plain password", &routerv1.StatsPage{Users: []*routerv1.StatsUser{{Name: "a", PasswordBcrypt: "hunter2"}}}, StatsPage{}, ".users[0].password_bcrypt"},
		{"dear hash", &routerv1.StatsPage{Users: []*routerv1.StatsUser{{Name: "a", PasswordBcrypt: strings.Replace(someHash, "$05$", "$31$", 1)}}}, StatsPage{}, ".users[0].password_bcrypt"},
		{"relative file", &routerv1.StatsPage{Users: []*routerv1.StatsUser{{Name: "a", PasswordFile: "../p"}}}, StatsPage{}, ".users[0].password_file"},
	}
	for _, test := range tests {
		var p parser
		got := p.statsPage("x", test.in)
		checkParsed(t, test.name, &p, got, test.want, test.field)
	}
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in    *routerv1.AccessLog
		want  AccessLog
		field string
	}{
		{nil, AccessLog{}, ""},
		{&routerv1.AccessLog{Target: "stdout"}, AccessLog{Kind: LogStdout, Sample: 1, Facility: 16}, ""},
		{&routerv1.AccessLog{Target: "file:/var/log/r.log", Format: routerv1.LogFormat_LOG_FORMAT_JSON, Sample: 10, HideQuery: true},
			AccessLog{Kind: LogFile, Target: "/var/log/r.log", JSON: true, Sample: 10, HideQuery: true, Facility: 16}, ""},
		{&routerv1.AccessLog{Target: "udp:127.0.0.1:514", Facility: "daemon"}, AccessLog{Kind: LogUDP, Target: "127.0.0.1:514", Sample: 1, Facility: 3}, ""},
		{&routerv1.AccessLog{Target: "udp:[::1]:514"}, AccessLog{Kind: LogUDP, Target: "[::1]:514", Sample: 1, Facility: 16}, ""},
		{&routerv1.AccessLog{Target: "unix:/dev/log"}, AccessLog{Kind: LogUnix, Target: "/dev/log", Sample: 1, Facility: 16}, ""},
		{&routerv1.AccessLog{}, AccessLog{}, ".target"},
		{&routerv1.AccessLog{Target: "stderr"}, AccessLog{}, ".target"},
		{&routerv1.AccessLog{Target: "file:r.log"}, AccessLog{}, ".target"},
		{&routerv1.AccessLog{Target: "file:/a/../etc/passwd"}, AccessLog{}, ".target"},
		{&routerv1.AccessLog{Target: "udp:localhost:514"}, AccessLog{}, ".target"},
		{&routerv1.AccessLog{Target: "unix:/" + strings.Repeat("x", 108)}, AccessLog{}, ".target"},
		{&routerv1.AccessLog{Target: "stdout", Format: 9}, AccessLog{}, ".format"},
		{&routerv1.AccessLog{Target: "stdout", Sample: MaxSample + 1}, AccessLog{}, ".sample"},
		{&routerv1.AccessLog{Target: "stdout", Facility: "local8"}, AccessLog{}, ".facility"},
	}
	for _, test := range tests {
		var p parser
		got := p.accessLog("x", test.in)
		checkParsed(t, test.in.String(), &p, got, test.want, test.field)
	}
}

func checkParsed(t *testing.T, name string, p *parser, got, want any, field string) {
	t.Helper()
	if field == "" {
		if len(p.violations) > 0 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v %v, want %+v", name, got, p.violations, want)
		}
		return
	}
	if len(p.violations) == 0 || p.violations[0].GetField() != "x"+field {
		t.Errorf("%s: got %v, want a violation at %s", name, p.violations, field)
	}
	for _, v := range p.violations {
		if strings.Contains(v.GetDescription(), "hunter2") {
			t.Errorf("%s: the message repeats a password: %v", name, v)
		}
	}
}
