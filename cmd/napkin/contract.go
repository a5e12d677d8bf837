package main

// contractCmd is `napkin contract`.
type contractCmd struct {
	Publish          contractPublishCmd          `cmd:"" help:"Publish a consumer's contracts to the Pact Broker."`
	CanIDeploy       contractCanIDeployCmd       `cmd:"" name:"can-i-deploy" help:"Ask the Pact Broker whether a version holds its contracts with what is deployed."`
	RecordDeployment contractRecordDeploymentCmd `cmd:"" help:"Tell the Pact Broker that a version was deployed."`
	Breaking         contractBreakingCmd         `cmd:"" help:"Find changes of Protobuf files, OpenAPI documents and event schemas that break consumers."`
}
