package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/e2e/lab"
	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// services are the control APIs of the lab, both directors' among them: package, name, address.
var services = []struct{ pkg, name, address string }{
	{"director", "Director", lab.DirectorAPI},
	{"director", "Director", lab.Director2API},
	{"vrrp", "Agent", lab.DirectorAgentAPI},
	{"vrrp", "Agent", lab.DirectorAgent2API},
	{"router", "Router", lab.RouterAPI},
	{"vrrp", "Agent", lab.AgentAPI},
	{"filesync", "Sync", lab.Sync2API},
	{"forum", "Forum", lab.Forum2API},
}

// call is a context for one call.
func call(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// routed is the number of requests that a router has sent to servers since its start.
func routed(t testing.TB, api string) uint64 {
	t.Helper()
	res, err := routerv1.NewRouterClient(lab.API(t, api, "viewer")).ListServers(call(t), &routerv1.ListServersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for _, server := range res.GetServers() {
		sum += server.GetTotalRequests()
	}
	return sum
}

// grpcurl, without any file, lists, describes and calls every control API with a certificate; without one it is
// refused, and so is a viewer on what only an admin may do.
func TestEveryControlAPIAnswersGrpcurl(t *testing.T) {
	for _, service := range services {
		t.Run(service.name+" "+service.address, func(t *testing.T) {
			api := "twotier." + service.pkg + ".v1." + service.name
			list, err := lab.Grpcurl(t, "viewer", service.address, "list")
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{api, api + "Admin", "grpc.health.v1.Health"} {
				if !strings.Contains("\n"+list, "\n"+want+"\n") {
					t.Errorf("list does not show %s: %q", want, list)
				}
			}
			if out, err := lab.Grpcurl(t, "viewer", service.address, "describe", api+"Admin"); err != nil || !strings.Contains(out, "rpc Apply") {
				t.Errorf("describe: %v: %s", err, out)
			}
			for method := range methods(t, service.address, api) {
				if strings.HasPrefix(method, "Watch") {
					continue // a stream without an end; its first answer is what the verb without Watch tells
				}
				// Some have to be told what about, and say so.
				if out, err := lab.Grpcurl(t, "viewer", service.address, api+"/"+method); err != nil && !strings.Contains(err.Error(), "Code: InvalidArgument") {
					t.Errorf("viewer calls %s: %v: %s", method, err, out)
				}
			}
			for _, method := range []string{"Apply", "Delete", "Reconcile"} {
				refused(t, "viewer", service.address, api+"Admin/"+method, "PermissionDenied")
			}
			refused(t, "", service.address, api+"/GetStatus", "")
			if out, err := lab.Grpcurl(t, "admin", service.address, api+"Admin/Reconcile"); err != nil || !strings.Contains(out, "OUTCOME_DONE") {
				t.Errorf("admin reconciles: %v: %s", err, out)
			}
			out, err := lab.Grpcurl(t, "viewer", service.address, api+"/GetStatus")
			if err != nil {
				t.Fatal(err)
			}
			var shown struct{ Outcome, Error string }
			if err := json.Unmarshal([]byte(out), &shown); err != nil || shown.Outcome != commonv1.Outcome_OUTCOME_DONE.String() {
				t.Errorf("status: %v: %s", err, out)
			}
		})
	}
}

// methods are the names of the methods of a service, by grpcurl.
func methods(t testing.TB, address, api string) map[string]bool {
	t.Helper()
	out, err := lab.Grpcurl(t, "viewer", address, "list", api)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for line := range strings.Lines(out) {
		names[strings.TrimPrefix(strings.TrimSpace(line), api+".")] = true
	}
	if len(names) < 5 {
		t.Errorf("%s has the methods %v, want at least the shared ones", api, names)
	}
	return names
}

func refused(t testing.TB, role, address, method, code string) {
	t.Helper()
	_, err := lab.Grpcurl(t, role, address, method)
	if err == nil || !strings.Contains(err.Error(), code) {
		t.Errorf("%s as %q: %v, want it refused with %s", method, role, err, code)
	}
}

// A desired state that does not validate is refused at the API with the path of the field, and changes nothing.
func TestBadDesiredStateIsRefused(t *testing.T) {
	admin := routerv1.NewRouterAdminClient(lab.API(t, lab.RouterAPI, "admin"))
	_, err := admin.Apply(call(t), &routerv1.ApplyRequest{Object: &routerv1.Object{Kind: &routerv1.Object_Backend{Backend: &routerv1.Backend{
		Name:    "webservers",
		Servers: []*routerv1.Server{{Name: "s1", Address: "172.16.0.88:80"}, {Name: "s2", Address: "172.16.0.99"}},
	}}}})
	if status.Code(err) != codes.InvalidArgument {
		t.Fatalf("got %v, want INVALID_ARGUMENT", err)
	}
	var fields []string
	for _, detail := range status.Convert(err).Details() {
		if bad, is := detail.(*errdetails.BadRequest); is {
			for _, violation := range bad.GetFieldViolations() {
				fields = append(fields, violation.GetField())
			}
		}
	}
	if want := "backend/webservers.servers[1].address"; len(fields) != 1 || fields[0] != want {
		t.Errorf("fields %q, want %q", fields, want)
	}
	if err := ok(public(t).Try("/")); err != nil {
		t.Error(err)
	}
}

// A desired state that somebody wrote into etcd by hand and that is wrong is reported in the status of both routers;
// the last good state stays in force.
func TestBadStateInEtcdIsReported(t *testing.T) {
	key := "/twotier/desired/l7-router/frontend/broken"
	etcdctl(t, "put", key, `{"name":"broken","bind":["nonsense"],"colour":"blue"}`)
	told := func(want bool) func() error {
		return func() error {
			for _, api := range []string{lab.RouterAPI, lab.Router2API} {
				res, err := routerv1.NewRouterClient(lab.API(t, api, "viewer")).GetStatus(call(t), &commonv1.GetStatusRequest{})
				if err != nil {
					return err
				}
				has := strings.Contains(fmt.Sprint(res.GetDesired().GetViolations()), "frontend/broken")
				if has != want || (res.GetOutcome() == commonv1.Outcome_OUTCOME_INVALID) != want {
					return fmt.Errorf("%s: outcome %v, violations %v", api, res.GetOutcome(), res.GetDesired().GetViolations())
				}
			}
			return nil
		}
	}
	t.Cleanup(func() { etcdctl(t, "del", key) })
	lab.Within(t, promise, "the status names the broken object", told(true))
	for range 10 {
		if err := ok(public(t).Try("/")); err != nil {
			t.Error(err)
		}
	}
	etcdctl(t, "del", key)
	lab.Within(t, promise, "the status is well again", told(false))
}

// A viewer may only look, and does not get round the control APIs by writing into etcd with the same certificate.
func TestViewerIsKeptOutOfEtcd(t *testing.T) {
	if out, err := tryEtcdctl(t, "viewer", "put", "/twotier/viewer", "was here"); err == nil {
		etcdctl(t, "del", "/twotier/viewer")
		t.Errorf("a viewer wrote into etcd: %s", out)
	}
}

// etcdctl runs etcdctl as admin.
func etcdctl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := tryEtcdctl(t, "admin", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryEtcdctl(t testing.TB, role string, args ...string) (string, error) {
	t.Helper()
	tls := filepath.Join(lab.Root(t), "deploy", "lab", "state", role)
	return lab.TryRun(filepath.Join(lab.Root(t), "dist", "tools", "etcdctl"), append([]string{"--endpoints=https://10.99.0.2:2379",
		"--dial-timeout=2s", "--command-timeout=5s",
		"--cacert=" + tls + "/ca.crt", "--cert=" + tls + "/tls.crt", "--key=" + tls + "/tls.key"}, args...)...)
}

// etcd is stopped: traffic goes on, also after each service has been restarted without it.
func TestTrafficOutlivesEtcd(t *testing.T) {
	t.Run("stopped", func(t *testing.T) {
		lab.Stop(t, "control-etcd") // started again at the end of this part
		if err := ok(public(t).Try("/")); err != nil {
			t.Error(err)
		}
		for _, service := range []string{
			"lvs-ipvs-director", "lvs2-ipvs-director", "lvs-vrrp-agent", "lvs2-vrrp-agent", "haproxy-l7-router", "haproxy2-l7-router", "haproxy-vrrp-agent", "haproxy2-vrrp-agent",
			"server1-forum-backend", "server2-forum-backend", "server1-file-sync", "server2-file-sync",
		} {
			lab.Restart(t, service)
			lab.Within(t, promise, "a page after restarting "+service, func() error { return ok(public(t).Try("/")) })
		}
		held(t, "haproxy", "haproxy2")
		for range 20 {
			if err := ok(public(t).Try("/")); err != nil {
				t.Error(err)
			}
		}
		author, _ := member(t)
		if page := author.Upload(t, board(t, author)+"/threads", "a.txt", []byte("a"), "title", unique(t, "file "), "body", "no etcd"); page.Status != 200 {
			t.Errorf("an upload without etcd: status %d", page.Status)
		}
	})
	lab.Within(t, time.Minute, "every service is connected to etcd again", func() error {
		for _, service := range services {
			out, err := lab.Grpcurl(t, "viewer", service.address, "twotier."+service.pkg+".v1."+service.name+"/GetStatus")
			if err != nil {
				return err
			}
			if !strings.Contains(out, `"ORIGIN_ETCD"`) || !strings.Contains(out, `"sourceAvailable": true`) {
				return fmt.Errorf("%s: %s", service.name, out)
			}
		}
		return nil
	})
}

// etcd comes back with nothing in it: no service takes that for an order. Traffic goes on, the status raises an alarm,
// letting the empty etcd rule is refused, and one command writes the desired state back.
func TestEmptiedEtcdTakesNothingAway(t *testing.T) {
	each := func(check func(name, status string) error) func() error {
		return func() error {
			for _, service := range services {
				out, err := lab.Grpcurl(t, "viewer", service.address, "twotier."+service.pkg+".v1."+service.name+"/GetStatus")
				if err != nil {
					return err
				}
				if err := check(service.name, out); err != nil {
					return err
				}
			}
			return nil
		}
	}
	objects := func() int {
		return strings.Count(etcdctl(t, "get", "--prefix", "--keys-only", "/twotier/desired/"), "/twotier/desired/")
	}
	before := objects()
	id := lab.Container(t, "control-etcd")
	lab.Run(t, "docker", "stop", id)
	lab.Run(t, "docker", "run", "--rm", "--network", "none", "--volumes-from", id, "twotier/machine:lab",
		"find", "/var/lib/etcd", "-mindepth", "1", "-delete")
	lab.Start(t, "control-etcd")
	lab.Within(t, time.Minute, "every service raises the alarm", each(func(name, status string) error {
		if !strings.Contains(status, "historyAlarm") {
			return fmt.Errorf("%s: %s", name, status)
		}
		return nil
	}))
	_, err := lab.Grpcurl(t, "admin", "-d", `{"accept_new_history": true}`, lab.RouterAPI, "twotier.router.v1.RouterAdmin/Reconcile")
	if err == nil || !strings.Contains(err.Error(), "FailedPrecondition") {
		t.Errorf("an empty etcd is let rule: %v", err)
	}
	for range 20 {
		if err := ok(public(t).Try("/")); err != nil {
			t.Error(err)
		}
	}
	lab.Run(t, lab.Root(t)+"/scripts/keep-desired")
	lab.Within(t, time.Minute, "every service is at ease again", each(func(name, status string) error {
		if strings.Contains(status, "historyAlarm") || !strings.Contains(status, "OUTCOME_DONE") || !strings.Contains(status, `"ORIGIN_ETCD"`) {
			return fmt.Errorf("%s: %s", name, status)
		}
		return nil
	}))
	if got := objects(); got != before {
		t.Errorf("etcd holds %d objects, want %d", got, before)
	}
	held(t, "haproxy", "haproxy2")
	for range 20 {
		if err := ok(public(t).Try("/")); err != nil {
			t.Error(err)
		}
	}
}
