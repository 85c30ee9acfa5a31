// Package e2e tells the stories of the users of the platform against the running lab (make up), through its public
// doors only: pages, control APIs, disks and the commands of an operator.
package e2e
