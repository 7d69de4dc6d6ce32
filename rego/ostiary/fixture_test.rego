# Compiled from tests/fixtures/policy/matrix.yaml; written by tests/support/policy.py.
package ostiary.fixture

map := {
	"format": 1,
	"services": {
		"shop": true,
	},
	"endpoints": {
		"shop": {
			"root": "GET /",
			"list": "GET /orders",
			"slash": "GET /orders/",
			"get": "GET /orders/{id}",
			"put": "PUT /orders/{id}",
			"remove": "DELETE /orders/{id}",
			"admin": "GET /orders/admin/users",
			"lines": "GET /orders/{id}/lines/{line:int}",
			"files": "GET /files/**",
			"own-files": "GET /files/{owner}/**",
			"special": "GET /files/{owner}/special",
			"tenant": "GET /tenants/{tenant}/items",
			"notes": "GET /notes/{note:text}",
			"plain-note": "GET /notes/sis",
			"anything": "GET /any/{thing}",
			"write": "POST /any/{thing}",
			"refund": "POST /orders/{id}/refund",
			"report": "HEAD /any/{thing}",
			"docs": "GET /docs/**",
			"edit-docs": "PUT /docs/**",
			"shelf": "GET /shelves/{shelf}/**",
			"7": "GET /seventh/{thing}",
		},
	},
	"routes": {
		"shop": {
			"shapes": [
				[],
				[
					[
						"=%[1]s",
						"^[^/]*$",
					],
				],
				[
					[
						"=%[1]s/=%[2]s",
						"^[^/]*/[^/]*$",
					],
					[
						"=%[1]s/{}name",
						"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}$",
					],
					[
						"=%[1]s/{}text",
						"^[^/]*/(?:[^\\p{C}\\p{Z}/\\\\;%?#.][^\\p{C}\\p{Z}/\\\\;%?#]{0,255}|\\.[^\\p{C}\\p{Z}/\\\\;%?#.][^\\p{C}\\p{Z}/\\\\;%?#]{0,254}|\\.\\.[^\\p{C}\\p{Z}/\\\\;%?#]{1,254})$",
					],
				],
				[
					[
						"=%[1]s/=%[2]s/=%[3]s",
						"^[^/]*/[^/]*/[^/]*$",
					],
					[
						"=%[1]s/{}name/=%[3]s",
						"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}/[^/]*$",
					],
				],
				[
					[
						"=%[1]s/{}name/=%[3]s/{}int",
						"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}/[^/]*/(?:0|[1-9][0-9]{0,18})$",
					],
				],
			],
			"rest": [
				[
					"=%[1]s/{}name/**",
					"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.\\.[A-Za-z0-9._~-]+)(?:/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.\\.[A-Za-z0-9._~-]+))*$",
					2,
				],
				[
					"=%[1]s/**",
					"^[^/]*/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.\\.[A-Za-z0-9._~-]+)(?:/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.\\.[A-Za-z0-9._~-]+))*$",
					1,
				],
			],
			"templates": {
				"=": {
					"GET": "root",
				},
				"=orders": {
					"GET": "list",
				},
				"=orders/=": {
					"GET": "slash",
				},
				"=orders/{}name": {
					"GET": "get",
					"PUT": "put",
					"DELETE": "remove",
				},
				"=orders/=admin/=users": {
					"GET": "admin",
				},
				"=orders/{}name/=lines/{}int": {
					"GET": "lines",
				},
				"=files/**": {
					"GET": "files",
				},
				"=files/{}name/**": {
					"GET": "own-files",
				},
				"=files/{}name/=special": {
					"GET": "special",
				},
				"=tenants/{}name/=items": {
					"GET": "tenant",
				},
				"=notes/{}text": {
					"GET": "notes",
				},
				"=notes/=sis": {
					"GET": "plain-note",
				},
				"=any/{}name": {
					"GET": "anything",
					"POST": "write",
					"HEAD": "report",
				},
				"=orders/{}name/=refund": {
					"POST": "refund",
				},
				"=docs/**": {
					"GET": "docs",
					"PUT": "edit-docs",
				},
				"=shelves/{}name/**": {
					"GET": "shelf",
				},
				"=seventh/{}name": {
					"GET": "7",
				},
			},
			"guards": {
				"=orders/{}name": [
					[
						1,
						"=orders",
					],
				],
				"=orders/{}name/=lines/{}int": [
					[
						1,
						"=orders",
					],
				],
				"=files/{}name/**": [
					[
						2,
						"=files/{}name",
					],
				],
				"=notes/{}text": [
					[
						1,
						"=notes",
					],
				],
				"=orders/{}name/=refund": [
					[
						1,
						"=orders",
					],
				],
			},
			"siblings": {
				"=files/{}name": {
					"special": true,
				},
				"=notes": {
					"sis": true,
				},
				"=orders": {
					"admin": true,
				},
			},
		},
	},
	"forms": {
		"shop": {
			"root": [
				"GET",
				"%.0[1]s",
				"^[^/]*$",
			],
			"list": [
				"GET",
				"%.0[1]sorders",
				"^[^/]*$",
			],
			"slash": [
				"GET",
				"%.0[1]sorders/",
				"^[^/]*/[^/]*$",
			],
			"get": [
				"GET",
				"orders/%[2]s",
				"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}$",
				[
					[
						1,
						"=orders",
					],
				],
			],
			"put": [
				"PUT",
				"orders/%[2]s",
				"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}$",
				[
					[
						1,
						"=orders",
					],
				],
			],
			"remove": [
				"DELETE",
				"orders/%[2]s",
				"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}$",
				[
					[
						1,
						"=orders",
					],
				],
			],
			"admin": [
				"GET",
				"%.0[1]sorders/admin/users",
				"^[^/]*/[^/]*/[^/]*$",
			],
			"lines": [
				"GET",
				"orders/%[2]s/lines/%[4]s",
				"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}/[^/]*/(?:0|[1-9][0-9]{0,18})$",
				[
					[
						1,
						"=orders",
					],
				],
			],
			"special": [
				"GET",
				"files/%[2]s/special",
				"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}/[^/]*$",
			],
			"tenant": [
				"GET",
				"tenants/%[2]s/items",
				"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}/[^/]*$",
			],
			"notes": [
				"GET",
				"notes/%[2]s",
				"^[^/]*/(?:[^\\p{C}\\p{Z}/\\\\;%?#.][^\\p{C}\\p{Z}/\\\\;%?#]{0,255}|\\.[^\\p{C}\\p{Z}/\\\\;%?#.][^\\p{C}\\p{Z}/\\\\;%?#]{0,254}|\\.\\.[^\\p{C}\\p{Z}/\\\\;%?#]{1,254})$",
				[
					[
						1,
						"=notes",
					],
				],
			],
			"plain-note": [
				"GET",
				"%.0[1]snotes/sis",
				"^[^/]*/[^/]*$",
			],
			"anything": [
				"GET",
				"any/%[2]s",
				"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}$",
			],
			"write": [
				"POST",
				"any/%[2]s",
				"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}$",
			],
			"refund": [
				"POST",
				"orders/%[2]s/refund",
				"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}/[^/]*$",
				[
					[
						1,
						"=orders",
					],
				],
			],
			"report": [
				"HEAD",
				"any/%[2]s",
				"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}$",
			],
			"docs": [
				"GET",
				"%.0[1]sdocs/",
				"^[^/]*/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.\\.[A-Za-z0-9._~-]+)(?:/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.\\.[A-Za-z0-9._~-]+))*$",
				[],
				true,
			],
			"edit-docs": [
				"PUT",
				"%.0[1]sdocs/",
				"^[^/]*/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.\\.[A-Za-z0-9._~-]+)(?:/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.\\.[A-Za-z0-9._~-]+))*$",
				[],
				true,
			],
			"shelf": [
				"GET",
				"shelves/%[2]s/",
				"^[^/]*/[A-Za-z0-9][A-Za-z0-9_-]{0,127}/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.\\.[A-Za-z0-9._~-]+)(?:/(?:[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.[A-Za-z0-9_~-][A-Za-z0-9._~-]*|\\.\\.[A-Za-z0-9._~-]+))*$",
				[],
				true,
			],
		},
	},
	"callers": {
		"subjects": {
			"https://idp.test": {
				"custom": [
					"custom",
				],
				"limited": [
					"limited",
				],
				"night": [
					"night",
				],
				"42": [
					"numbered",
				],
				"tenant": [
					"tenant",
				],
				"trainee": [
					"trainee",
				],
				"web": [
					"web",
					"web-prod",
				],
			},
		},
		"workloads": {
			"spiffe://shop.test": {
				"spiffe://shop.test/job": [
					"job",
				],
			},
		},
		"claims": {
			"https://idp.test": {
				"groups": {
					"lead": [
						"lead",
					],
					"support": [
						"support",
					],
					"helpdesk": [
						"support",
					],
				},
			},
		},
		"indexed": {
			"https://idp.test": [
				"groups",
			],
		},
		"demands": {
			"lead": {
				"groups": [
					"lead",
				],
				"level": [
					"3",
					"4",
				],
			},
			"web-prod": {
				"stage": [
					"prod",
				],
			},
		},
	},
	"sole": {
		"https://idp.test": {
			"custom": "custom",
			"limited": "limited",
			"night": "night",
			"tenant": "tenant",
			"trainee": "trainee",
			"web": "web",
		},
	},
	"access": {
		"custom": {
			"shop": {
				"get": "0",
				"list": "1",
			},
		},
		"job": {
			"shop": {
				"list": "plain",
			},
		},
		"lead": {
			"shop": {
				"admin": "plain",
			},
		},
		"limited": {
			"shop": {
				"get": "3",
				"lines": "4",
				"list": "5",
			},
		},
		"night": {
			"shop": {
				"get": "6",
				"list": "7",
				"shelf": "8",
			},
		},
		"numbered": {
			"shop": {
				"7": "plain",
				"anything": "plain",
				"get": "plain",
			},
		},
		"support": {
			"shop": {
				"get": "9",
				"refund": "10",
			},
		},
		"tenant": {
			"shop": {
				"tenant": "11",
			},
		},
		"trainee": {
			"shop": {
				"get": "12",
				"list": "13",
				"put": "14",
			},
		},
		"web": {
			"shop": {
				"7": "plain",
				"anything": "plain",
				"docs": "plain",
				"files": "plain",
				"get": "plain",
				"lines": "plain",
				"list": "plain",
				"notes": "plain",
				"own-files": "plain",
				"plain-note": "plain",
				"put": "15",
				"root": "plain",
				"shelf": "plain",
				"slash": "plain",
				"special": "plain",
			},
		},
		"web-prod": {
			"shop": {
				"get": "16",
				"refund": "17",
				"remove": "18",
			},
		},
	},
	"terms": {
		"0": {
			"standing": [
				{
					"id": "acc55b03",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"conditions": {
						"custom": {
							"odd": [
								1,
								3,
							],
							"even": {
								"a": 2,
							},
						},
					},
				},
			],
			"custom": [
				"even",
				"odd",
			],
			"vary": [],
			"hours": false,
			"depends": true,
		},
		"1": {
			"standing": [
				{
					"id": "402b2e2e",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"conditions": {
						"custom": {
							"even": {
								"a": 2,
							},
						},
					},
				},
			],
			"custom": [
				"even",
			],
			"vary": [],
			"hours": false,
			"depends": true,
		},
		"plain": {
			"standing": [
				{
					"id": "44136fa3",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
				},
			],
			"vary": [],
			"hours": false,
			"alone": true,
		},
		"3": {
			"standing": [
				{
					"id": "17927fd6",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"conditions": {
						"when": {
							"read-only": true,
						},
					},
				},
				{
					"id": "5a04b608",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"conditions": {
						"when": {
							"claims": {
								"groups": [
									"a",
									"b",
								],
								"tier": [
									"gold",
								],
							},
						},
					},
				},
			],
			"vary": [],
			"hours": false,
		},
		"4": {
			"standing": [
				{
					"id": "17927fd6",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"conditions": {
						"when": {
							"read-only": true,
						},
					},
				},
				{
					"id": "b1d4d6ee",
					"credential": {
						"lifetime": 10,
						"per_call": false,
					},
					"conditions": {
						"when": {
							"source": [
								"192.0.2.0/24",
							],
						},
					},
				},
			],
			"vary": [
				"source_ip",
			],
			"hours": false,
			"depends": true,
		},
		"5": {
			"standing": [
				{
					"id": "17927fd6",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"conditions": {
						"when": {
							"read-only": true,
						},
					},
				},
				{
					"id": "b4e951e3",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"conditions": {
						"when": {
							"query": {
								"status": [
									"open",
									"paid",
								],
								"page": "*",
							},
						},
					},
				},
			],
			"vary": [
				"query",
			],
			"hours": false,
			"depends": true,
		},
		"6": {
			"standing": [
				{
					"id": "009a8122",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"conditions": {
						"when": {
							"hours": {
								"timezone": "Europe/Paris",
								"windows": [
									{
										"from": 480,
										"to": 1080,
										"days": [
											"Monday",
											"Tuesday",
											"Wednesday",
											"Thursday",
											"Friday",
										],
									},
								],
							},
						},
					},
				},
			],
			"hours": true,
			"vary": [],
			"depends": true,
			"alone": true,
		},
		"7": {
			"standing": [
				{
					"id": "198ad3d8",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"conditions": {
						"when": {
							"hours": {
								"timezone": "Europe/Paris",
								"windows": [
									{
										"from": 1320,
										"to": 1440,
										"days": [
											"Friday",
										],
									},
									{
										"from": 0,
										"to": 360,
										"days": [
											"Saturday",
										],
									},
								],
							},
						},
					},
				},
			],
			"hours": true,
			"vary": [],
			"depends": true,
			"alone": true,
		},
		"8": {
			"standing": [
				{
					"id": "3e303b69",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"conditions": {
						"when": {
							"source": [
								"10.0.0.0/8",
							],
							"hours": {
								"timezone": "Europe/Paris",
								"windows": [
									{
										"from": 480,
										"to": 1080,
										"days": [
											"Monday",
											"Tuesday",
											"Wednesday",
											"Thursday",
											"Friday",
											"Saturday",
											"Sunday",
										],
									},
								],
							},
						},
					},
				},
			],
			"vary": [
				"source_ip",
			],
			"hours": true,
			"depends": true,
			"alone": true,
		},
		"9": {
			"standing": [
				{
					"id": "44136fa3",
					"credential": {
						"lifetime": 45,
						"per_call": false,
					},
				},
			],
			"vary": [],
			"hours": false,
			"alone": true,
		},
		"10": {
			"eligible": [
				{
					"id": "8c6dc857",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"approvers": [
						"lead",
					],
					"approvals": 1,
					"max_duration": 1800,
					"max_uses": null,
					"reason_required": true,
					"conditions": {
						"when": {
							"source": [
								"10.0.0.0/8",
							],
						},
					},
				},
			],
			"vary": [
				"source_ip",
			],
			"hours": false,
			"depends": true,
		},
		"11": {
			"standing": [
				{
					"id": "bac88f28",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"conditions": {
						"when": {
							"path": [
								{
									"variable": "tenant",
									"claim": "tenant",
									"place": 1,
								},
							],
						},
					},
				},
			],
			"vary": [
				"segments",
			],
			"hours": false,
			"depends": true,
			"alone": true,
		},
		"12": {
			"shadow": [
				{
					"id": "44136fa3",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
				},
			],
			"vary": [],
			"hours": false,
		},
		"13": {
			"standing": [
				{
					"id": "b1d4d6ee",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"conditions": {
						"when": {
							"source": [
								"192.0.2.0/24",
							],
						},
					},
				},
			],
			"shadow": [
				{
					"id": "b60ab30a",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"conditions": {
						"when": {
							"query": {
								"status": [
									"open",
								],
							},
						},
					},
				},
			],
			"vary": [
				"query",
				"source_ip",
			],
			"hours": false,
			"depends": true,
		},
		"14": {
			"eligible": [
				{
					"id": "44136fa3",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"approvers": [
						"lead",
					],
					"approvals": 1,
					"max_duration": 600,
					"max_uses": null,
					"reason_required": true,
				},
			],
			"shadow": [
				{
					"id": "44136fa3",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
				},
			],
			"vary": [],
			"hours": false,
		},
		"15": {
			"eligible": [
				{
					"id": "44136fa3",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"approvers": [
						"lead",
					],
					"approvals": 1,
					"max_duration": 600,
					"max_uses": null,
					"reason_required": true,
				},
			],
			"vary": [],
			"hours": false,
		},
		"16": {
			"standing": [
				{
					"id": "44136fa3",
					"credential": {
						"lifetime": 30,
						"per_call": true,
					},
				},
			],
			"vary": [],
			"hours": false,
			"alone": true,
		},
		"17": {
			"eligible": [
				{
					"id": "44136fa3",
					"credential": {
						"lifetime": 20,
						"per_call": false,
					},
					"approvers": [
						"lead",
						"support",
					],
					"approvals": 1,
					"max_duration": 3600,
					"max_uses": null,
					"reason_required": true,
				},
			],
			"vary": [],
			"hours": false,
		},
		"18": {
			"standing": [
				{
					"id": "b8232c64",
					"credential": {
						"lifetime": 60,
						"per_call": false,
					},
					"conditions": {
						"when": {
							"source": [
								"10.0.0.0/8",
								"2001:db8::/32",
							],
						},
					},
				},
			],
			"vary": [
				"source_ip",
			],
			"hours": false,
			"depends": true,
			"alone": true,
		},
	},
	"roles": {
		"reader": {
			"shop": [
				"list",
				"get",
				"lines",
			],
		},
	},
	"hooks": {},
}
