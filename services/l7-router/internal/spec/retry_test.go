package spec

import (
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

func TestRetries(t *testing.T) {
	t.Parallel()
	state, violations := Parse(nil, []*routerv1.Backend{{Name: "web", PanicThreshold: 30, ShutdownSessionsWhenDown: true, Retries: &routerv1.Retries{
		Attempts: new(uint32(0)), BudgetFloor: new(uint32(5)), On: []routerv1.RetryOn{routerv1.RetryOn_RETRY_ON_RESPONSE_TIMEOUT}, Statuses: []uint32{503, 425},
	}, Passive: &routerv1.Passive{Observe: routerv1.Observe_OBSERVE_LAYER7, MaxEjectedPercent: new(uint32(0))}}})
	if len(violations) > 0 {
		t.Fatal(violations)
	}
	b := state.Backends[0]
	want := Retries{BudgetPercent: 20, BudgetFloor: 5, On: FailureTimeout, Statuses: []int{425, 503}}
	if !reflect.DeepEqual(*b.Retries, want) || b.Panic != 30 || !b.CutWhenDown {
		t.Errorf("got %+v %+v, want %+v", b, *b.Retries, want)
	}
	if want := (Passive{Limit: 10, Layer7: true, Ejection: 10 * time.Second, MaxEjection: 5 * time.Minute}); b.Passive != want {
		t.Errorf("got %+v, want %+v", b.Passive, want)
	}
}

func TestRetryRefusals(t *testing.T) {
	t.Parallel()
	retries := func(r *routerv1.Retries) *routerv1.Backend { return &routerv1.Backend{Retries: r} }
	passive := func(p *routerv1.Passive) *routerv1.Backend { return &routerv1.Backend{Passive: p} }
	on := func(on ...routerv1.RetryOn) *routerv1.Backend { return retries(&routerv1.Retries{On: on}) }
	tests := []struct {
		field   string
		backend *routerv1.Backend
	}{
		{"retries.attempts", retries(&routerv1.Retries{Attempts: new(uint32(256))})},
		{"retries.budget_percent", retries(&routerv1.Retries{BudgetPercent: new(uint32(101))})},
		{"retries.budget_floor", retries(&routerv1.Retries{BudgetFloor: new(uint32(10001))})},
		{"retries.on[0]", on(routerv1.RetryOn_RETRY_ON_UNSPECIFIED)},
		{"retries.on[1]", on(routerv1.RetryOn_RETRY_ON_EMPTY_RESPONSE, routerv1.RetryOn_RETRY_ON_CONNECT_FAILURE)},
		{"retries.on[1]", on(routerv1.RetryOn_RETRY_ON_EMPTY_RESPONSE, routerv1.RetryOn_RETRY_ON_EMPTY_RESPONSE)},
		{"retries.statuses[0]", retries(&routerv1.Retries{Statuses: []uint32{200}})},
		{"retries.statuses[1]", retries(&routerv1.Retries{Statuses: []uint32{500, 500}})},
		{"passive.observe", passive(&routerv1.Passive{Observe: 99})},
		{"passive.error_limit", passive(&routerv1.Passive{ErrorLimit: 1001})},
		{"passive.on_error", passive(&routerv1.Passive{OnError: 99})},
		{"passive.on_error", passive(&routerv1.Passive{OnError: routerv1.OnError_ON_ERROR_MARK_DOWN})},
		{"passive.ejection", passive(&routerv1.Passive{Ejection: durationpb.New(time.Minute), MaxEjection: durationpb.New(time.Second)})},
		{"passive.max_ejection", passive(&routerv1.Passive{MaxEjection: durationpb.New(48 * time.Hour)})},
		{"passive.max_ejected_percent", passive(&routerv1.Passive{MaxEjectedPercent: new(uint32(101))})},
		{"passive.ejection", &routerv1.Backend{Check: &routerv1.Check{}, Passive: &routerv1.Passive{
			OnError: routerv1.OnError_ON_ERROR_FAIL_CHECK, Ejection: durationpb.New(time.Second),
		}}},
		{"panic_threshold", &routerv1.Backend{PanicThreshold: 101}},
	}
	for _, test := range tests {
		test.backend.Name = "web"
		_, violations := Parse(nil, []*routerv1.Backend{test.backend})
		if len(violations) != 1 || violations[0].GetField() != "backend/web."+test.field {
			t.Errorf("%s: got %v", test.field, violations)
		}
	}
}
