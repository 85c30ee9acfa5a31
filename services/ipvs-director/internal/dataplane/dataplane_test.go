package dataplane

import (
	"errors"
	"testing"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	no := Report{Name: IPVS, Reason: "no IPVS here"}
	yes := Report{Name: NFTables, Usable: true}
	noNft := Report{Name: NFTables, Reason: "no nf_tables here"}
	for _, c := range []struct {
		name, wanted string
		reports      []Report
		chosen, err  string
	}{
		{"auto takes the first usable", Auto, []Report{{Name: IPVS, Usable: true}, yes}, IPVS, ""},
		{"auto falls back", Auto, []Report{no, yes}, NFTables, ""},
		{"auto with none", Auto, []Report{no, noNft}, "", "data plane cannot be used: ipvs: no IPVS here; nftables: no nf_tables here"},
		{"asked for", NFTables, []Report{{Name: IPVS, Usable: true}, yes}, NFTables, ""},
		{"asked for, no fallback", IPVS, []Report{no, yes}, "", "data plane cannot be used: ipvs: no IPVS here"},
		{"unknown", "xdp", []Report{no, yes}, "", `data plane cannot be used: there is no plane "xdp"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			chosen, err := Choose(c.wanted, c.reports)
			if chosen != c.chosen {
				t.Errorf("chosen %q, want %q", chosen, c.chosen)
			}
			if c.err == "" && err != nil || c.err != "" && (err == nil || err.Error() != c.err || !errors.Is(err, ErrUnusable)) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}
