package logging_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	"github.com/twotier/twotier/services/internal/logging"
)

func TestALineIsOneObject(t *testing.T) {
	var out strings.Builder
	log, err := logging.New("l7-router", "haproxy", "", &out)
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("not shown")
	log.Named("pool").Warn("server is down", logging.Server("s1"), logging.Duration(1500*time.Millisecond))
	var line map[string]any
	if err := json.Unmarshal([]byte(out.String()), &line); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	for name, want := range map[string]string{
		"level": "warn", "room": "pool", "message": "server is down", "service": "l7-router", "node": "haproxy", "server": "s1", "duration": "1.5s",
	} {
		if line[name] != want {
			t.Errorf("%s: got %v, want %s", name, line[name], want)
		}
	}
	if _, err := time.Parse(time.RFC3339Nano, line["time"].(string)); err != nil {
		t.Error(err)
	}
}

// TestViolations: a line names what is wrong with a desired state, and is bounded; without violations it does not speak of them.
func TestViolations(t *testing.T) {
	var out strings.Builder
	log, err := logging.New("vrrp-agent", "haproxy", "", &out)
	if err != nil {
		t.Fatal(err)
	}
	log.Warn("pass", logging.Violations(nil))
	if strings.Contains(out.String(), "violations") {
		t.Error(out.String())
	}
	out.Reset()
	log.Warn("pass", logging.Violations(slices.Repeat([]*commonv1.Violation{{Field: "instance/VI_1.virtual_router_id", Description: "want 1 to 255, got 0"}}, 10)))
	var line struct{ Violations []string }
	if err := json.Unmarshal([]byte(out.String()), &line); err != nil {
		t.Fatal(err)
	}
	if v := line.Violations; len(v) != 9 || v[0] != "instance/VI_1.virtual_router_id: want 1 to 255, got 0" || v[8] != "and 2 more" {
		t.Errorf("%q", v)
	}
}

func TestLevel(t *testing.T) {
	for _, bad := range []string{"loud", "fatal", "dpanic"} {
		if _, err := logging.New("s", "n", bad, nil); err == nil {
			t.Errorf("%s: taken", bad)
		}
	}
}
