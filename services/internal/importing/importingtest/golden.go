// Package importingtest answers: does an import still make what it made, and does its report hold?
package importingtest

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Golden compares what an import made with a file, or writes the file with -update.
func Golden[M proto.Message](t testing.TB, file string, objects []M, report *commonv1.ImportReport) {
	t.Helper()
	got := Print(t, objects, report)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: -update renews it. Got\n%s\nwant\n%s", file, got, want)
	}
}

// Print writes what an import made, for a person to read: objects, warnings, lines.
func Print[M proto.Message](t testing.TB, objects []M, report *commonv1.ImportReport) string {
	t.Helper()
	var out strings.Builder
	for _, object := range objects {
		compact, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		// protojson puts spaces at random, so that nobody relies on them.
		var indented bytes.Buffer
		if err := json.Indent(&indented, compact, "", "  "); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s %s\n", object.ProtoReflect().Descriptor().Name(), indented.String())
	}
	for _, warning := range report.GetWarnings() {
		fmt.Fprintf(&out, "warning: %s\n", warning)
	}
	for _, line := range report.GetLines() {
		fmt.Fprintln(&out, Line(line))
	}
	return out.String()
}

// Line writes a line of a report.
func Line(line *commonv1.ImportLine) string {
	place := fmt.Sprint(line.GetNumber())
	if line.GetSource() != "" {
		place = line.GetSource() + ":" + place
	}
	verdict := strings.ToLower(strings.TrimPrefix(line.GetVerdict().String(), "IMPORT_VERDICT_"))
	return fmt.Sprintf("%s %s | %s\n    %s", place, verdict, line.GetText(), line.GetMessage())
}

// Complete fails when a report leaves out a line of the text, or says nothing of one.
func Complete(t testing.TB, text []byte, report *commonv1.ImportReport) {
	t.Helper()
	lines := bytes.Count(text, []byte("\n"))
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		lines++
	}
	if len(report.GetLines()) != lines {
		t.Errorf("%d lines reported of %d", len(report.GetLines()), lines)
	}
	for i, line := range report.GetLines() {
		if int(line.GetNumber()) != i+1 || line.GetVerdict() == 0 || line.GetMessage() == "" {
			t.Errorf("line %d: %v", i+1, line)
		}
	}
	if _, err := proto.Marshal(report); err != nil {
		t.Error(err)
	}
}
